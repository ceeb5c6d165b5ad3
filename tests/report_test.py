"""`report`: its numbers against counts by hand."""

import csv
import gzip
import json
import random
import re
import sys

import keras
import numpy as np
import pytest
from helpers import TOTAL
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import lines_with
from helpers import wrapped
from keras import layers

import keras_bimp


def image_model():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, name="first")(inputs)
    x = layers.Conv2D(8, 3, name="frozen", trainable=False)(x)
    x = layers.DepthwiseConv2D(3, name="left_alone")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(4, name="last")(x), name="images")


def told(model, *arguments, **options):
    return keras_bimp.report(
        model, *arguments, **{"latency": False, "verbose": 0, **options}
    )


def trained(epochs=6, **kwargs):
    model = wrapped()
    ours = keras_bimp.callbacks(0.75, dense_epochs=2, cycles=2, verbose=0)
    return model, fit(
        model, epochs, [*ours, *kwargs.pop("beside", ())], **kwargs
    )


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_kernels_are_told_as_they_are():
    model = keras_bimp.wrap(image_model(), exclude="left_alone")
    keras_bimp.prune(model, 0.5)
    before = [array(v) for v in model.variables]
    found = told(model)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, array(variable))
    rows = {kernel.path.split("/")[-2]: kernel for kernel in found.kernels}
    assert list(rows) == ["first", "frozen", "left_alone", "last"]
    for name, row in rows.items():
        layer = model.get_layer(name)
        kernel = array(layer.kernel)
        assert row.layer == type(layer).__name__
        assert row.shape == kernel.shape
        assert row.left == np.count_nonzero(kernel)
    assert rows["first"].dense_macs == 6 * 6 * 3 * 3 * 4 * 8
    assert rows["first"].macs == 6 * 6 * rows["first"].left
    assert rows["left_alone"].dense_macs == 2 * 2 * 3 * 3 * 8
    assert rows["last"].dense_macs == 8 * 4
    assert found.dense_macs == sum(row.dense_macs for row in found.kernels)
    assert found.macs == sum(row.macs for row in found.kernels)
    assert rows["first"].status == "pruned"
    assert rows["frozen"].status == "frozen"
    assert "`exclude`" in rows["left_alone"].status
    pruned = rows["last"].left < 32
    assert rows["last"].status == ("pruned" if pruned else "dense")
    share = keras_bimp.sparsity(model)
    assert (found.sparsity, found.total_sparsity) == share
    assert found.parameters == model.wrapper.layer.count_params()
    stripped = told(keras_bimp.strip(model))
    assert stripped.macs == found.macs
    assert [k.left for k in stripped.kernels] == [k.left for k in found.kernels]
    assert [size.raw for size in stripped.sizes] == pytest.approx(
        [size.raw for size in found.sizes], rel=0.02
    )


@pytest.mark.slow
def test_sizes_are_those_of_files(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((200,))
    dense = keras.Model(inputs, layers.Dense(300)(inputs))
    dense.compile(keras.optimizers.Adam(), "mse")
    model = keras_bimp.wrap(keras.models.clone_model(dense))
    keras_bimp.prune(model, 0.9)
    found = told(model, dense)
    keras_file, saved_model = found.sizes
    path = tmp_path / "model.keras"
    keras_bimp.strip(model).save(path)
    assert keras_file.raw == pytest.approx(path.stat().st_size, rel=0.02)
    packed = len(gzip.compress(path.read_bytes(), compresslevel=1))
    assert keras_file.gzipped == pytest.approx(packed, rel=0.02)
    folder = keras_bimp.export(
        keras_bimp.strip(keras_bimp.wrap(dense)), tmp_path / "1"
    )
    written = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert saved_model.dense_raw == pytest.approx(written, rel=0.02)
    for size in found.sizes:
        # 60,000 weights of 4 bytes, of which gzip compresses the 90% zeros; no
        # optimizer.
        assert 240_000 < size.raw < 280_000
        assert 240_000 < size.dense_raw < 280_000
        assert size.gzipped < 0.25 * size.raw
        assert size.dense_gzipped > 0.8 * size.dense_raw


@pytest.mark.slow
def test_metrics_are_those_of_both_models():
    x, y = data()
    dense = compile_model(dense_model())
    model, history = trained()
    found = told(model, dense, (x, y), history)
    ours = model.evaluate(x, y, verbose=0, return_dict=True)
    theirs = dense.evaluate(x, y, verbose=0, return_dict=True)
    assert found.metrics == {
        name: pytest.approx((ours[name], theirs[name])) for name in ours
    }
    assert [(p.name, p.start, p.end) for p in found.phases] == [
        ("dense", 0, 2),
        ("cycle 1", 2, 4),
        ("cycle 2", 4, 6),
    ]
    assert found.history["sparsity"] == history.history["sparsity"]
    assert sum(found.histogram.counts) == sum(k.left for k in found.kernels)
    assert sum(found.histogram.dense_counts) == TOTAL


class StopAfter(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 3


@pytest.mark.slow
def test_it_says_how_far_the_training_came():
    model, _ = trained()
    for each in (model, keras_bimp.strip(model)):
        found = told(each)
        assert found.status == "complete"
        assert lines_with(found.state, "6 of 6")
    model, _ = trained(beside=[StopAfter()])
    # One pruning of two: half of the weights on the way to three quarters.
    found = told(model)
    assert found.status == "incomplete"
    assert lines_with(found.state, "4 of 6", "50.00%", "75.00%", "72")
    assert "0.00%" in told(dense_model()).state


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_it_says_how_far_an_interrupted_training_came():
    model = wrapped()
    ours = keras_bimp.callbacks(0.75, dense_epochs=2, cycles=2, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        fit(model, 6, [*ours, Interrupt()])
    found = told(model)
    assert found.status == "incomplete"
    assert lines_with(found.state, "3 of 6")


@pytest.mark.slow
def test_it_says_that_the_training_failed(tmp_path):
    model = wrapped(keras.optimizers.SGD(1e30))
    with pytest.warns(RuntimeWarning, match=r"epoch \d.*learning rate"):
        fit(model, 4, keras_bimp.callbacks(0.5, dense_epochs=2, verbose=0))
    x, y = data()
    found = told(model, None, (x, y), path=tmp_path / "report.html")
    assert found.status == "failed"
    assert re.search(r"epoch \d", found.state)
    text = (tmp_path / "report.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["metrics"]["loss"] == [
        None,
        None,
    ]


def test_files(tmp_path, capsys):
    model, history = trained(validation_split=0.25)
    path = tmp_path / "new" / "report.html"
    found = keras_bimp.report(model, history=history, path=path, latency=False)
    printed = capsys.readouterr().out
    for kernel in found.kernels:
        assert f" {kernel.left}  " in printed
    text = path.with_suffix(".json").read_text()
    numbers = json.loads(text, parse_constant=pytest.fail)
    assert numbers["sparsity"] == found.sparsity
    # No pruning yet in the dense phase.
    after = numbers["history"]["val_loss_after_pruning"]
    assert after[:2] == [None, None]
    assert None not in after[2:]
    with path.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["left"]) for row in rows] == [k.left for k in found.kernels]
    assert found.state in path.read_text()


def test_times_are_in_turns_with_those_of_the_dense_model():
    found = told(image_model(), image_model(), latency=True)
    assert [facts.batch_size for facts in found.times] == [1, 32]
    for facts in found.times:
        for median, low, high in (
            facts.seconds,
            facts.dense_seconds,
            facts.speedup,
        ):
            assert 0 < low <= median <= high
        ratio = facts.dense_seconds[0] / facts.seconds[0]
        assert facts.speedup[0] == pytest.approx(ratio, rel=0.9)


def verdict(found, target):
    return next(v.text for v in found.verdicts if target in v.target)


def test_verdicts_see_structure():
    model = keras_bimp.wrap(image_model(), filters="first")
    keras_bimp.prune(model, 0.5, granularity="filter")
    assert lines_with(verdict(told(model), "channels"), "4", "16")
    model = keras_bimp.wrap(image_model(), filters="last")
    model.get_layer("last").kernel.assign(
        np.where(np.arange(4) == 1, 0, array(model.get_layer("last").kernel))
    )
    # A class that is never predicted still counts.
    assert "granularity='unit'" in verdict(told(model), "channels")
    assert len(told(image_model()).verdicts) == 1  # No weight is zero.
    model = keras_bimp.wrap(image_model(), filters="first|last")
    keras_bimp.prune(model, 0.5)
    assert "granularity='2:4'" in verdict(told(model), "tensor cores")
    model = keras_bimp.wrap(image_model(), filters="first|last")
    keras_bimp.prune(model, 0.5, granularity="2:4")
    assert "granularity='2:4'" not in verdict(told(model), "tensor cores")
    assert "granularity='unit'" in verdict(told(model), "channels")


class Own(layers.Layer):
    """Not registered."""

    def __init__(self, broken=False, **kwargs):
        super().__init__(**kwargs)
        self.broken = broken

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

    def call(self, x):
        return x @ self.kernel

    def get_config(self):
        if self.broken:
            raise ZeroDivisionError("It is broken.")
        return super().get_config()


def own_model(**kwargs):
    return keras.Sequential([keras.Input((6,)), layers.Dense(4), Own(**kwargs)])


def test_a_class_that_is_not_registered_is_measured():
    found = told(own_model(), latency=True)
    assert found.dense_macs == 24
    ((path, _),) = found.not_counted
    assert path.split("/")[-1].startswith("own")
    assert found.kernels[1].dense_macs is None
    assert [size.format for size in found.sizes] == [".keras", "SavedModel"]
    assert len(found.times) == 2
    assert not found.missing


def test_what_cannot_be_measured_is_said():
    found = told(own_model(broken=True), own_model(), latency=True)
    assert found.dense_macs == 24
    assert not found.sizes
    assert not found.times
    [(what, why)] = found.missing
    assert "Files" in what
    assert "It is broken." in why
    found = told(dense_model(), None, data())
    [(what, why)] = found.missing
    assert "Metrics" in what
    assert "compiled" in why


def test_sizes_that_are_not_fixed():
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, layers.Conv2D(2, 3)(inputs))
    found = told(model)
    assert found.dense_macs is None
    assert "`input_shape`" in dict(found.missing)["Multiply-adds"]
    found = told(model, input_shape=(None, 5, 5, 1), latency=True)
    assert found.dense_macs == 3 * 3 * 3 * 3 * 2
    assert found.times


class TwoInputs(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, one, other):
        return self.dense(one) + other


def text_model():
    texts = keras.Input((), dtype="string")
    table = layers.TextVectorization(max_tokens=9, output_sequence_length=4)
    table.adapt(np.array(["a b c", "d e"]))
    x = layers.Embedding(9, 4)(table(texts))
    return keras.Model(texts, layers.Dense(2)(layers.Flatten()(x)))


def lookup_model():
    numbers = keras.Input((4,), dtype="int64")
    table = layers.IntegerLookup(vocabulary=[3, 5, 7])
    x = layers.Embedding(4, 4)(table(numbers))
    return keras.Model(numbers, layers.Dense(2)(layers.Flatten()(x)))


def stateful_model():
    inputs = keras.Input(batch_shape=(4, 5, 3))
    return keras.Model(inputs, layers.LSTM(4, stateful=True)(inputs))


def two_inputs_model():
    model = TwoInputs()
    model(np.zeros((2, 4), "float32"), np.zeros((2, 3), "float32"))
    return model


def subclassed_model():
    class Subclassed(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = Subclassed()
    model(np.zeros((2, 4), "float32"))
    return model


@pytest.mark.parametrize(
    ("build", "macs", "batches"),
    [
        # The number of texts in a batch is known only at run time.
        (text_model, None, [1, 32]),
        (lookup_model, 16 * 2, [1, 32]),
        (stateful_model, 5 * (3 + 4) * 16, [4]),
        (subclassed_model, 12, [1, 32]),
    ],
)
def test_models_of_all_kinds(build, macs, batches):
    found = told(build(), latency=True)
    assert not found.missing
    assert found.dense_macs == macs
    assert macs or dict(found.not_counted)
    assert [facts.batch_size for facts in found.times] == batches
    assert [size.format for size in found.sizes] == [".keras", "SavedModel"]


def test_a_model_that_keras_cannot_load_is_counted():
    shapes = {"one": (None, 4), "other": (None, 3)}
    found = told(two_inputs_model(), latency=True, input_shape=shapes)
    assert found.dense_macs == 12
    [(what, _)] = found.missing
    assert "Files" in what


def test_kernels_of_one_name_are_told_apart():
    def block(units):
        inputs = keras.Input((4,))
        outputs = layers.Dense(units, name="fc")(inputs)
        return keras.Model(inputs, outputs)

    inputs = keras.Input((4,))
    both = layers.Concatenate()([block(3)(inputs), block(7)(inputs)])
    found = told(keras.Model(inputs, both))
    assert [(k.shape, k.dense_macs) for k in found.kernels] == [
        ((4, 3), 12),
        ((4, 7), 28),
    ]


def test_reasons_outlive_strip():
    model = keras_bimp.wrap(image_model(), filters="first|last")
    keras_bimp.prune(model, 0.5)
    status = [kernel.status for kernel in told(model).kernels]
    assert status[1] == "frozen"
    assert "`filters`" in status[2]
    stripped = told(keras_bimp.strip(model))
    assert [kernel.status for kernel in stripped.kernels] == status
    model = wrapped()
    name = model.wrapper.kernels[0].path
    ours = keras_bimp.callbacks(
        0.5, dense_epochs=1, exclude=name.split("/")[-2] + "$", verbose=0
    )
    fit(model, 2, ours)
    for each in (model, keras_bimp.strip(model)):
        first = told(each).kernels[0]
        assert "`exclude`" in first.status


def test_a_pruned_table_counts_after_strip():
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(20, 8)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert "table" in told(model).kernels[0].status
    model = keras_bimp.wrap(model, filters=".*")
    keras_bimp.prune(model, 0.8)
    before = told(model)
    after = told(keras_bimp.strip(model))
    assert before.sparsity == after.sparsity == pytest.approx(0.8, abs=0.01)
    assert before.total_sparsity == after.total_sparsity


def test_nothing_of_the_model_or_of_random_numbers_is_changed():
    keras.utils.set_random_seed(3)

    class Dropout(layers.Dropout):
        """Also active at inference."""

        def call(self, x, training=False):
            return super().call(x, training=True)

    model = compile_model(
        keras.Sequential([keras.Input((6,)), Dropout(0.5), layers.Dense(3)])
    )
    fit(model, 1)
    everything = [*model.variables, *model.optimizer.variables]
    everything += model.metrics_variables
    before = [array(v) for v in everything]
    states = random.getstate(), np.random.get_state()[1].tolist()
    told(model, model, data(), latency=True)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    for old, variable in zip(before, everything, strict=True):
        np.testing.assert_array_equal(old, array(variable))


def test_metrics_of_several_numbers_are_left_out():
    model = dense_model()
    model.compile(
        "sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score()]
    )
    x, y = data()
    found = told(model, None, (x, keras.utils.to_categorical(y)))
    assert list(found.metrics) == ["loss"]


def test_another_architecture_and_one_without_kernels():
    smaller = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    found = told(dense_model(), smaller, latency=True)
    assert not found.missing
    assert found.times[0].speedup[0] > 0
    empty = keras.Sequential([keras.Input((4,)), layers.ReLU()])
    with pytest.raises(ValueError, match=r"`dense`.*'kernel'"):
        told(dense_model(), empty)


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (TypeError, r"`model`.*keras\.Model", {"model": layers.Dense(3)}),
        (TypeError, r"`dense`.*keras\.Model", {"dense": "dense"}),
        (ValueError, r"`model`.*`keras\.Input`", {"model": keras.Sequential()}),
        (ValueError, r"`path`.*'\.html'", {"path": "report.txt"}),
        (
            ValueError,
            r"`path`.*file/report\.html",
            {"path": "file/report.html"},
        ),
        (TypeError, "`history`", {"history": {"loss": 0.5}}),
        (TypeError, "`history`", {"history": [1]}),
        (ValueError, "`data`", {"data": [1]}),
    ],
)
def test_errors(error, match, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(error, match=match):
        told(**{"model": dense_model(), **arguments})


def test_histories_of_other_lengths_are_left_out():
    history = {"loss": [3.0, 2.0, 1.0], "val_loss": [2.0]}
    found = told(dense_model(), history=history)
    assert found.history == {"loss": [3.0, 2.0, 1.0]}
    assert "val_loss" in found.missing[0][0]


def test_nothing_prunable():
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    with pytest.raises(ValueError, match=r"`model`.*'kernel'"):
        told(model)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_summaries_for_tensorboard(tmp_path):
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    model = wrapped()
    ours = keras_bimp.callbacks(0.75, dense_epochs=2, verbose=0)
    fit(model, 4, [*ours, keras_bimp.PruningSummaries(tmp_path)])
    events = event_accumulator.EventAccumulator(
        str(tmp_path / "pruning"),
        size_guidance={event_accumulator.TENSORS: 0},
    )
    events.Reload()
    kernels = {
        f"sparsity/{kernel.path}": np.mean(array(kernel.variable) == 0)
        for kernel in model.wrapper.kernels
    }
    assert set(events.Tags()["tensors"]) == set(kernels)
    for tag, share in kernels.items():
        values = [
            float(tensor_util.make_ndarray(event.tensor_proto))
            for event in events.Tensors(tag)
        ]
        assert values == pytest.approx([0, 0, share, share])


def test_summaries_want_a_wrapped_model(tmp_path):
    model = compile_model(dense_model())
    with pytest.raises(ValueError, match=r"`model`.*`keras_bimp\.wrap`"):
        fit(model, 1, [keras_bimp.PruningSummaries(tmp_path)])


def test_summaries_want_tensorboard(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    model = wrapped()
    with pytest.raises(ValueError, match="pip install tensorflow tensorboard"):
        fit(model, 1, [keras_bimp.PruningSummaries(tmp_path)])
    assert not int(model.optimizer.iterations)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_throughput_leaves_the_model_as_it_is():
    model = wrapped(keras.optimizers.Adam())
    keras_bimp.prune(model, 0.5)
    fit(model, 1)
    kept = [*model.variables, *model.optimizer.variables]
    before = [array(v) for v in kept]
    rate = keras_bimp.metrics.train_throughput(model, *data(), batch_size=16)
    assert 0 < rate.low <= rate.median <= rate.high
    for old, variable in zip(before, kept, strict=True):
        np.testing.assert_array_equal(old, array(variable))
    with pytest.raises(ValueError, match=r"`x`.*batch_size=65"):
        keras_bimp.metrics.train_throughput(model, *data(), batch_size=65)
    with pytest.raises(ValueError, match=r"`model`.*compiled"):
        keras_bimp.metrics.train_throughput(dense_model(), *data())
