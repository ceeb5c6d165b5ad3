import contextlib
import copy
import functools
import inspect
import json
import os
import socket
import sys
import warnings
import zipfile

import jobs
import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from keras.saving import deserialize_keras_object
from keras.saving import serialize_keras_object

import keras_bimp
from keras_bimp import baselines
from keras_bimp._src import schedules
from keras_bimp._src.masking import MaskedModel
from keras_bimp.masking import Hard

URL = "http://127.0.0.1:9/x"
SECRET = "in this lambda only"
AUDITED = {
    "compile",
    "ctypes.dlopen",
    "exec",
    "import",
    "marshal.loads",
    "open",
    "os.exec",
    "os.listdir",
    "os.posix_spawn",
    "os.scandir",
    "os.system",
    "pickle.find_class",
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "urllib.Request",
}
NEVER = {
    "os.exec",
    "os.posix_spawn",
    "os.system",
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "urllib.Request",
}
SCHEDULE = keras.optimizers.schedules.LearningRateSchedule

# An audit hook stays until the process ends, so all tests share one.
_watching = []


def _hook(event, args):
    if _watching and event in AUDITED:
        _watching[-1].append((event, repr(args)))


sys.addaudithook(_hook)


@contextlib.contextmanager
def watching():
    """Collects pairs of an audit event and its subject."""
    seen = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.pop()


def touching(seen, *markers):
    """Returns events that loading must not cause, or about markers."""
    return [
        (event, about)
        for event, about in seen
        if event in NEVER or any(str(marker) in about for marker in markers)
    ]


@keras.saving.register_keras_serializable(package="keras_bimp_tests")
class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


@keras.saving.register_keras_serializable(package="keras_bimp_tests")
class Unchanging(SCHEDULE):
    def __call__(self, step):
        return 0.1

    def get_config(self):
        return {}


class Unregistered(Unchanging):
    pass


@contextlib.contextmanager
def foreign_module(folder):
    """Writes a module that creates a file when it is imported."""
    file = folder / "foreign_module.py"
    file.write_text(
        "import pathlib\n"
        "pathlib.Path(__file__).with_suffix('.ran').touch()\n"
        "class Thing: from_config = classmethod(lambda cls, config: cls())\n"
        "def call(*args): pass\n"
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(folder)
        yield file
    sys.modules.pop(file.stem, None)


@pytest.fixture
def foreign(tmp_path):
    with foreign_module(tmp_path) as file:
        yield file


def was_run(foreign):
    return foreign.stem in sys.modules or foreign.with_suffix(".ran").exists()


def sequential(*inside, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *inside])


def functional(layer):
    x = keras.Input((4,))
    return keras.Model(x, layer(layers.Dense(4)(x)))


def a_lambda():
    return layers.Lambda(lambda x: (x * 2, "in this lambda only")[0])


def with_lambda():
    return sequential(a_lambda(), layers.Dense(3))


def masked(layer, **kwargs):
    return keras_bimp.Masked(layer, **kwargs)


def edit(path, change):
    """Changes the config in a `.keras` file."""
    with zipfile.ZipFile(path) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    config = json.loads(contents["config.json"])
    change(config)
    contents["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            file.writestr(name, content)


def at(config, place):
    """Returns the part of a config at a path such as "a/0/b"."""
    for key in place.split("/") if place else ():
        config = config[int(key) if key.isdigit() else key]
    return config


def outcome(path, **kwargs):
    try:
        keras.models.load_model(path, **kwargs)
    except Exception as error:
        return type(error)
    return "loaded"


# Lambdas.

HOLDERS = {
    "wrap": lambda: keras_bimp.wrap(with_lambda()),
    "wrap of nested": lambda: keras_bimp.wrap(
        functional(sequential(with_lambda()))
    ),
    "in sequential": lambda: sequential(masked(a_lambda())),
    "in functional": lambda: functional(masked(a_lambda())),
    "around sequential": lambda: functional(masked(with_lambda())),
    "around nested": lambda: sequential(
        sequential(masked(sequential(with_lambda())))
    ),
    "in a wrapper": lambda: sequential(
        layers.TimeDistributed(masked(with_lambda())), shape=(2, 4)
    ),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_lambda_inside_is_refused_as_keras_refuses_it(holder, tmp_path):
    with_lambda().save(tmp_path / "plain.keras")
    HOLDERS[holder]().save(tmp_path / "ours.keras")
    with pytest.raises(ValueError, match="Lambda") as expected:
        keras.models.load_model(tmp_path / "plain.keras")
    with watching() as seen, pytest.raises(ValueError, match="Lambda") as found:
        keras.models.load_model(tmp_path / "ours.keras")
    assert str(found.value) == str(expected.value)
    assert not touching(seen, SECRET)


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_lambda_inside_loads_without_safe_mode(holder, tmp_path):
    model = HOLDERS[holder]()
    model.save(tmp_path / "model.keras")
    with watching() as seen:
        again = keras.models.load_model(
            tmp_path / "model.keras", safe_mode=False
        )
    assert touching(seen, SECRET)  # As in the test above.
    x = np.ones((2, *model.inputs[0].shape[1:]), "float32")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(again(x)), ops.convert_to_numpy(model(x))
    )


def test_a_lambda_inside_is_refused_outside_of_load_model():
    layer = masked(with_lambda())
    with pytest.raises(ValueError, match="Lambda"):
        keras_bimp.Masked.from_config(layer.get_config())
    with pytest.raises(ValueError, match="Lambda"):
        MaskedModel.from_config(
            {"masked": serialize_keras_object(layer), "name": "model"}
        )


def test_a_lambda_in_the_legacy_format_is_refused(tmp_path):
    def to_legacy(place):
        def change(config):
            for layer in at(config, place):
                del layer["module"]

        return change

    with_lambda().save(tmp_path / "plain.keras")
    keras_bimp.wrap(with_lambda()).save(tmp_path / "ours.keras")
    edit(tmp_path / "plain.keras", to_legacy("config/layers"))
    edit(
        tmp_path / "ours.keras",
        to_legacy("config/masked/config/layer/config/layers"),
    )
    with watching() as seen:
        assert outcome(tmp_path / "ours.keras") is ValueError
    assert outcome(tmp_path / "plain.keras") is ValueError
    assert not touching(seen, SECRET)


CHOICES = {
    "filters": lambda layer: (layer, "in this lambda only")[0] is not None,
    "exclude": lambda layer: (layer, "in this lambda only")[0] is None,
}


def save_with_a_lambda_as(argument, path):
    unbuilt = masked(layers.Dense(3), **{argument: CHOICES[argument]})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keras.Sequential([unbuilt]).save(path)
    assert any("`lambda`" in str(w.message) for w in caught)


@pytest.mark.parametrize("argument", ["filters", "exclude"])
def test_a_lambda_that_chooses_layers_is_not_even_read(argument, tmp_path):
    save_with_a_lambda_as(argument, tmp_path / "model.keras")
    with watching() as seen:
        outcome(tmp_path / "model.keras")
    assert not touching(seen, SECRET)


@pytest.mark.parametrize("argument", ["filters", "exclude"])
def test_a_lambda_that_chooses_layers_is_refused(argument, tmp_path):
    save_with_a_lambda_as(argument, tmp_path / "model.keras")
    assert outcome(tmp_path / "model.keras") is ValueError


@pytest.mark.parametrize("argument", ["filters", "exclude"])
def test_a_lambda_that_chooses_layers_loads_without_safe_mode(
    argument, tmp_path
):
    save_with_a_lambda_as(argument, tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras", safe_mode=False)
    model.build((None, 4))
    assert len(model.layers[0].kernels) == 1


# Foreign modules.


def alterations(foreign):
    """Returns replacements for a part of a config."""

    def a_class(module, name, **kwargs):
        return {"module": module, "class_name": name, **kwargs}

    def function(module, name):
        return {
            "module": module,
            "class_name": "function",
            "config": name,
            "registered_name": name,
        }

    return {
        "module of a file": {"module": foreign},
        "class": a_class("os", "system"),
        "class unregistered": a_class("os", "system", registered_name=None),
        "class by name": a_class("os", "system", registered_name="system"),
        "class of a file": a_class(foreign, "Thing", registered_name=None),
        "class of a file by name": a_class(
            foreign, "Thing", registered_name=f"{foreign}>Thing"
        ),
        "class of keras": a_class(
            "keras.src.utils.file_utils", "File", registered_name=None
        ),
        "function": function("os", "system"),
        "builtin": function("builtins", "exec"),
        "function of a file": function(foreign, "call"),
        "function of keras": function("keras.utils", "get_file"),
        "lambda": a_class(
            "builtins", "__lambda__", config={"value": ["", None, None]}
        ),
    }


def compile_with(model, rate):
    model.compile(keras.optimizers.SGD(rate), keras.losses.MeanSquaredError())
    return model


def keras_schedule():
    return keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)


def our_model():
    joined = schedules.Joined(
        [schedules.Linear(0.1, 4), keras_schedule()],
        replaced=schedules.Recorded([0.1, 0.1]),
    )
    return compile_with(keras_bimp.wrap(sequential(layers.Dense(3))), joined)


def plain_model(rate):
    return compile_with(sequential(layers.Dense(3), Doubled()), rate)


RATE = "compile_config/optimizer/config/learning_rate"
JOINED = f"{RATE}/config"
MASKED = "config/masked/config"
# Place in our file -> rate, and the corresponding place in a plain file.
PLACES = {
    "config/masked": (Unchanging, "config/layers/2"),
    f"{MASKED}/layer": (Unchanging, ""),
    f"{MASKED}/layer/config/layers/1": (Unchanging, "config/layers/1"),
    f"{MASKED}/rule": (Unchanging, "config/layers/2"),
    "compile_config/loss": (Unchanging, "compile_config/loss"),
    "compile_config/optimizer": (Unchanging, "compile_config/optimizer"),
    RATE: (Unchanging, RATE),
    f"{JOINED}/schedules/0": (Unchanging, RATE),
    f"{JOINED}/schedules/1": (keras_schedule, RATE),
    f"{JOINED}/replaced": (Unchanging, RATE),
}


def outcomes(model, place, foreign, folder):
    """Returns the result and events of loading, by alteration."""
    found, touched = {}, {}
    path = folder / "model.keras"
    model.save(path)
    original = path.read_bytes()
    for name, change in alterations(foreign.stem).items():
        path.write_bytes(original)
        edit(path, lambda config: at(config, place).update(change))  # noqa: B023
        with watching() as seen:
            found[name] = outcome(path)
            if "file" in name:
                assert outcome(path, safe_mode=False) == found[name]
        touched[name] = touching(seen, foreign.stem)
    return found, touched


_plain = {}


@pytest.fixture(scope="module", params=PLACES)
def altered(request, tmp_path_factory):
    """Loads our file, altered in one place, and a plain one."""
    folder = tmp_path_factory.mktemp("altered")
    with foreign_module(folder) as foreign:
        alike = PLACES[request.param]
        if alike not in _plain:
            model = plain_model(alike[0]())
            _plain[alike] = outcomes(model, alike[1], foreign, folder)
        plain = _plain[alike]
        ours = outcomes(our_model(), request.param, foreign, folder)
        return plain, ours, was_run(foreign)


def test_what_is_foreign_is_never_run(altered):
    (_, touched_by_keras), (_, touched), ran = altered
    assert not any(touched.values()), touched
    assert not any(touched_by_keras.values()), touched_by_keras
    assert not ran


def test_what_is_foreign_is_refused_as_keras_refuses_it(altered):
    (plain, _), (found, _), _ = altered
    different = {
        name: (found[name], plain[name])
        for name in plain
        if found[name] != plain[name]
    }
    assert not different


@pytest.mark.parametrize("inside", [False, True])
def test_foreign_layers_in_a_functional_model(inside, foreign, tmp_path):
    plain, _ = outcomes(
        functional(layers.Dense(3) if inside else Doubled()),
        "config/layers/2",
        foreign,
        tmp_path,
    )
    found, touched = outcomes(
        functional(masked(layers.Dense(3))),
        "config/layers/2" + ("/config/layer" if inside else ""),
        foreign,
        tmp_path,
    )
    assert found == plain
    assert not any(touched.values()), touched
    assert not was_run(foreign)


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda: functional(layers.Dense(3)), "config"),
        (lambda: functional(masked(layers.Dense(3))), "config"),
        (
            lambda: keras_bimp.wrap(functional(layers.Dense(3))),
            f"{MASKED}/layer/config",
        ),
        (
            lambda: sequential(masked(functional(layers.Dense(3)))),
            "config/layers/1/config/layer/config",
        ),
    ],
    ids=["keras", "masked inside", "wrap", "masked around"],
)
def test_no_command_is_called_as_a_layer(make, place, tmp_path):
    command = {
        "module": "os",
        "class_name": "function",
        "config": "system",
        "registered_name": "system",
        "inbound_nodes": [
            {"args": [f"touch {tmp_path / 'marker'}"], "kwargs": {}}
        ],
    }
    path = tmp_path / "model.keras"
    make().save(path)
    edit(path, lambda config: at(config, place)["layers"][2].update(command))
    with watching() as seen:
        assert outcome(path) is TypeError
    assert not touching(seen, tmp_path / "marker")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("name", "argument"),
    [("TFSMLayer", "filepath"), ("StringLookup", "vocabulary")],
)
@pytest.mark.parametrize(
    "place", [f"{MASKED}/layer", f"{MASKED}/layer/config/layers/1"]
)
def test_layers_that_read_files_are_refused_inside(
    name, argument, place, tmp_path
):
    marker = tmp_path / "marker"
    marker.write_text("marker")

    def alter(place):
        return lambda config: at(config, place).update(
            module="keras.layers",
            class_name=name,
            config={argument: str(marker)},
            registered_name=None,
        )

    path = tmp_path / "model.keras"
    sequential(layers.Dense(3)).save(path)
    edit(path, alter("config/layers/1"))
    with pytest.raises((TypeError, ValueError), match="safe_mode") as expected:
        keras.models.load_model(path)
    our_model().save(path)
    edit(path, alter(place))
    with watching() as seen, pytest.raises(expected.type, match="safe_mode"):
        keras.models.load_model(path)
    assert not touching(seen, marker)


def test_a_schedule_of_an_unknown_class_is_refused_as_keras_refuses_it(
    tmp_path,
):
    plain_model(Unregistered()).save(tmp_path / "plain.keras")
    joined = schedules.Joined(
        [schedules.Linear(0.1, 4)], replaced=Unregistered()
    )
    plain_model(joined).save(tmp_path / "ours.keras")
    assert outcome(tmp_path / "plain.keras") is TypeError
    assert outcome(tmp_path / "ours.keras") is TypeError


# Paths and addresses.

EXAMPLES = {
    "Hard": Hard,
    "Soft": baselines.Soft,
    "StraightThrough": baselines.StraightThrough,
    "TopWeights": lambda: baselines.TopWeights(0.5),
    "DecayOutsideTop": lambda: baselines.DecayOutsideTop(0.5, 0.1),
    "SoftThreshold": lambda: baselines.SoftThreshold(-1.0),
    "SigmoidGate": lambda: baselines.SigmoidGate(0.1, 0.1),
    "StepThreshold": lambda: baselines.StepThreshold(0.1),
    "GlobalSparseMomentum": lambda: baselines.GlobalSparseMomentum(0.5),
    "Cyclic": lambda: baselines.Cyclic(0.1, 4, 2),
    "Masked": lambda: masked(layers.Dense(3), filters="dense"),
    "MaskedModel": lambda: keras_bimp.wrap(sequential(layers.Dense(3))),
    "Constant": lambda: schedules.Constant(0.1, 4),
    "Linear": lambda: schedules.Linear(0.1, 4),
    "Cosine": lambda: schedules.Cosine(0.1, 4),
    "Recorded": lambda: schedules.Recorded([0.1, 0.1]),
    "Stepped": lambda: schedules.Stepped([0.1, 0.1], 0.1, 4),
    "Joined": lambda: schedules.Joined(
        [schedules.Linear(0.1, 4)], replaced=0.1, notes={"dense_accuracy": 0.5}
    ),
    "FT": lambda: schedules.FT([0.1, 0.1], 4),
    "LRW": lambda: schedules.LRW([0.1, 0.1], 2),
    "SLR": lambda: schedules.SLR([0.1, 0.1], 4),
    "CLR": lambda: schedules.CLR([0.1, 0.1], 4),
    "LLR": lambda: schedules.LLR(0.1, 4),
    "ALLR": lambda: schedules.ALLR(0.1, 4, 0.5),
}


def test_every_registered_class_is_tried():
    prefix = "keras_bimp>"
    registered = keras.saving.get_custom_objects()
    assert {prefix + name for name in EXAMPLES} == {
        name for name in registered if name.startswith(prefix)
    }


def values(foreign):
    """Returns values for fields."""
    for text in (str(foreign), foreign.as_uri(), foreign.stem, URL):
        yield from (text, [text], {"path": text})
        yield {"module": text, "class_name": text, "config": {"path": text}}


def use(made):
    """Uses an object like loading and training would."""
    made.get_config()
    if isinstance(made, SCHEDULE):
        float(made(1))
    elif isinstance(made, layers.Layer):
        made(np.ones((2, 4), "float32"))


def assert_untouched(make, foreign):
    """Asserts that creating and using an object reads no files."""
    with watching() as seen, contextlib.suppress(Exception):
        use(make())
    assert not touching(seen, foreign.name, foreign.stem, URL)
    assert not was_run(foreign)


def fields(cls, config):
    parameters = inspect.signature(cls.__init__).parameters
    return sorted({*config, *parameters} - {"self", "args", "kwargs"})


@pytest.mark.parametrize("name", jobs.first_and_slow(EXAMPLES, ["Masked"]))
def test_no_field_is_opened_or_imported(name, foreign):
    example = EXAMPLES[name]()
    serialized = serialize_keras_object(example)
    cls, config = type(example), example.get_config()
    for field in fields(cls, config):
        for value in values(foreign):
            changed = copy.deepcopy({**config, field: value})
            assert_untouched(
                functools.partial(cls.from_config, changed), foreign
            )
            changed = copy.deepcopy(serialized)
            changed["config"][field] = value
            assert_untouched(
                functools.partial(deserialize_keras_object, changed), foreign
            )


@pytest.mark.parametrize("name", jobs.first_and_slow(EXAMPLES, ["Masked"]))
def test_nothing_around_the_fields_is_opened_or_imported(name, foreign):
    serialized = serialize_keras_object(EXAMPLES[name]())
    for key in {*serialized, "build_config", "compile_config"}:
        for value in values(foreign):
            changed = copy.deepcopy({**serialized, key: value})
            assert_untouched(
                functools.partial(deserialize_keras_object, changed), foreign
            )


@pytest.mark.parametrize("name", jobs.first_and_slow(EXAMPLES, ["Masked"]))
def test_a_path_in_a_field_is_kept_or_refused(name):
    example = EXAMPLES[name]()
    cls, config = type(example), example.get_config()
    for field in fields(cls, config):
        changed = copy.deepcopy({**config, field: "/a/path"})
        with contextlib.suppress(TypeError, ValueError):
            cls.from_config(changed)


# Checks of the test helpers.


def test_opening_the_file_is_seen(foreign):
    with watching() as seen:
        foreign.read_text()
    assert [event for event, _ in touching(seen, foreign)] == ["open"]
    assert not was_run(foreign)


def test_importing_the_module_is_seen(foreign):
    with watching() as seen:
        __import__(foreign.stem)
    assert {"import", "open", "exec"} <= {
        event for event, _ in touching(seen, foreign.stem)
    }
    assert was_run(foreign)


def test_reading_a_lambda_is_seen():
    with pytest.warns(UserWarning, match="`lambda`"):
        config = serialize_keras_object(CHOICES["filters"])
    with watching() as seen:
        deserialize_keras_object(config, safe_mode=False)
    assert "marshal.loads" in {event for event, _ in touching(seen, SECRET)}


def test_a_connection_is_seen():
    with watching() as seen, contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", 9), timeout=1).close()
    assert "socket.connect" in {event for event, _ in touching(seen)}


def test_a_command_is_seen():
    with watching() as seen:
        os.system("exit 0")
    assert [event for event, _ in touching(seen)] == ["os.system"]


def test_nothing_is_collected_unless_it_is_asked_for(foreign):
    with watching() as seen:
        pass
    foreign.read_text()
    assert not seen
