import jobs
import keras
import numpy as np
import pytest
from helpers import SaveAfter
from helpers import array
from helpers import compile_model
from helpers import dense_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import lines_with
from helpers import masked
from helpers import wrapped
from helpers import zeros
from keras import layers

import keras_bimp
from keras_bimp._src import slots


def wr(**kwargs):
    arguments = {"target_sparsity": 0.75, "retraining": "wr", "verbose": 0}
    return keras_bimp.callbacks(**{**arguments, **kwargs})


def state(model):
    """Copies all weights except masks, and all slots."""
    masks = {id(m) for m in masked(model).masks}
    return [
        array(variable)
        for variable in model.weights + slots.all_slots(model.optimizer)
        if id(variable) not in masks
    ]


class Look(keras.callbacks.Callback):
    """Copies the model's state before each epoch; list it after ours."""

    def on_train_begin(self, logs=None):
        self.states = {}
        self.counts = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.states[epoch] = state(self.model)
        self.counts[epoch] = int(self.model.optimizer.iterations)
        self.masks = [mask for _, mask in kernels_and_masks(self.model)]


def assert_rewound(before, after, masks):
    """Asserts that `after` is `before`, with zeros according to the masks."""
    changed = 0
    for old, new in zip(before, after, strict=True):
        keep = True
        for mask in masks:
            if mask.shape == old.shape:
                keep = mask
        np.testing.assert_array_equal(np.where(keep, old, 0), new)
        changed += not np.array_equal(old, new)
    assert changed


@pytest.mark.parametrize("where", ["memory", "directory"])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: keras.optimizers.Adam(0.01, use_ema=True),
        lambda: keras.optimizers.Adafactor(0.01, epsilon_1=1e-15),
    ],
)
def test_survivors_go_back_to_what_they_were(tmp_path, where, optimizer):
    model = wrapped(optimizer())
    look = Look()
    kept = tmp_path / "kept" if where == "directory" else None
    ours = wr(dense_epochs=5, rewind_to=kept)
    fit(model, 8, [*ours, look])
    # T = 5, T_rt = 3: back to the model after 2 epochs.
    assert_rewound(look.states[2], look.states[5], look.masks)
    assert look.counts[5] == 5 * 4
    assert zeros(model) == 54
    if where == "directory":
        assert [p.name for p in kept.iterdir()] == ["epoch_2.npz"]


def test_it_is_the_trained_weights_that_are_ranked():
    model = wrapped()
    trained = {}

    class BeforePruning(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 4:
                trained["kernels"] = [
                    kernel for kernel, _ in kernels_and_masks(self.model)
                ]

    fit(model, 8, [*wr(dense_epochs=5), BeforePruning()])
    expected = keras_bimp.select(trained["kernels"], 0.75, on_collapse="ignore")
    flat = [
        np.concatenate([mask.ravel() for mask in masks])
        for masks in (expected, [m for _, m in kernels_and_masks(model)])
    ]
    # `on_collapse="protect"` changes a few.
    assert (flat[0] == flat[1]).mean() > 0.9


def test_every_cycle_rewinds_to_its_own_length_before_the_end():
    model = wrapped()
    look = Look()
    # Two cycles of 2 and one of 3 epochs; the dense phase has 6.
    (callback,) = wr(dense_epochs=6, cycles=3)
    fit(model, 13, [callback, look])
    assert [p.epochs for p in callback.plan.phases] == [6, 2, 2, 3]
    text = str(callback.plan)
    assert lines_with(text, "weights", "3", "epochs")
    assert lines_with(text, "weights", "4", "epochs")
    assert_rewound(look.states[3], look.states[10], look.masks)
    # Snapshots that are no longer needed are deleted.
    assert not callback._rewinding._snapshots.in_memory


def test_the_first_epoch_begins_with_an_optimizer_that_knows_nothing():
    model = wrapped()
    look = Look()
    trained = {}

    class Trained(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            trained[epoch] = state(self.model)

    fit(model, 4, [*wr(dense_epochs=2), look, Trained()])
    weights = len(model.weights) - len(look.masks)
    assert weights < len(look.states[2])
    assert_rewound(
        look.states[0][:weights], look.states[2][:weights], look.masks
    )
    # It continues with its snapshots.
    assert_rewound(trained[1][weights:], look.states[2][weights:], look.masks)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_moving_averages_begin_anew_where_there_are_none():
    # Keras sets the weights to the averages at the end of `fit`.
    model = wrapped(keras.optimizers.SGD(0.1, use_ema=True))
    look = Look()
    fit(model, 6, [*wr(dense_epochs=3), look])
    # The averages of the two kernels, two biases, scale and offset.
    averages = look.states[3][-6:]
    weights = [w for w in look.states[3][:-6] if w.shape != ()]
    for average in averages:
        assert any(np.array_equal(average, weight) for weight in weights)
    before = np.linalg.norm(look.states[5][0])
    after = np.linalg.norm(kernels_and_masks(model)[0][0])
    assert 0.8 < after / before < 1.2


def test_an_optimizer_without_slots_keeps_its_count():
    plain = keras.Sequential(
        [keras.Input((6,)), layers.Dense(3, use_bias=False)]
    )
    model = wrapped(keras.optimizers.SGD(0.1), model=plain)
    fit(model, 6, wr(dense_epochs=4, cycles=2, target_sparsity=0.5))
    assert int(model.optimizer.iterations) == 6 * 4


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("built", [True, False])
def test_a_pretrained_model_rewinds_to_a_file(
    tmp_path, suffix, compiled, built
):
    plain = compile_model(dense_model())
    fit(plain, 3)
    path = tmp_path / f"epoch_3{suffix}"
    if suffix == ".keras":
        if not compiled:
            keras.Model(plain.inputs, plain.outputs).save(path)
        else:
            plain.save(path)
    else:
        plain.save_weights(path)
    weights = [array(w) for w in plain.weights]
    momenta = [array(s) for s in slots.all_slots(plain.optimizer)]
    fit(plain, 5, initial_epoch=3)

    model = keras_bimp.wrap(plain)
    if not built:
        compile_model(model)
    before = state(model)
    expected = keras_bimp.select(
        [kernel for kernel, _ in kernels_and_masks(model)],
        0.75,
        on_collapse="protect",
    )
    look = Look()
    ours = wr(dense_epochs=0, original=[0.1] * 20, rewind_to=path)
    fit(model, 2, [*ours, look])
    after = look.states[0]
    if suffix == ".weights.h5" or not compiled:
        # The file has no slots: they are those of the trained weights, if any.
        momenta = before[len(weights) :]
        # If not built yet, it is built before or after, depending on the
        # backend.
        after = after[: len(weights) + len(momenta)]
    assert_rewound([*weights, *momenta], after, look.masks)
    assert not np.array_equal(before[0], after[0])
    # The ranking used the trained weights, not those of the file.
    for mask, other in zip(look.masks, expected, strict=True):
        np.testing.assert_array_equal(mask, other)


def test_a_file_of_another_model_is_refused(tmp_path):
    other = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    model = wrapped()
    before = state(model)
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"no zip file")
    other.save(tmp_path / "other.keras")
    other.save_weights(tmp_path / "other.weights.h5")
    for name in ("other.keras", "other.weights.h5", "broken.keras"):
        ours = wr(
            dense_epochs=0, original=[0.1] * 20, rewind_to=tmp_path / name
        )
        with pytest.raises(ValueError, match=f"`rewind_to`.*{name}"):
            fit(model, 2, ours)
        for old, new in zip(before, state(model)[: len(before)], strict=True):
            np.testing.assert_array_equal(old, new)
        assert float(model.optimizer.learning_rate) == pytest.approx(0.1)
        assert zeros(model) == 0


def test_a_run_that_goes_on_without_what_it_kept_is_refused(tmp_path):
    model = wrapped()
    save = SaveAfter(4, tmp_path / "model.keras")
    fit(model, 6, [*wr(dense_epochs=4, cycles=2), save])
    loaded = keras.models.load_model(save.path)
    # It was saved before its first cycle began in epoch 4.
    with pytest.raises(
        ValueError, match=r"3 epochs.*`fit`.* 4\b.*`rewind_to=`"
    ):
        fit(loaded, 6, wr(dense_epochs=4, cycles=2), initial_epoch=4)
    assert float(loaded.optimizer.learning_rate) == pytest.approx(0.1)
    wrong = tmp_path / "kept"
    wrong.mkdir()
    np.savez(wrong / "epoch_3.npz", np.zeros(3))
    with pytest.raises(ValueError, match=r"`rewind_to`.*epoch_3"):
        fit(
            loaded,
            6,
            wr(dense_epochs=4, cycles=2, rewind_to=wrong),
            initial_epoch=4,
        )


@pytest.mark.parametrize("kept", jobs.first_and_slow([True, False], [True]))
def test_taken_up_without_its_schedule_it_does_not_rewind_again(tmp_path, kept):
    """Like `BackupAndRestore`: weights and slots, but a new schedule."""
    arguments = {"dense_epochs": 4, "rewind_to": tmp_path if kept else None}

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 5:
                raise RuntimeError("power cut")

    def start(*more):
        model = wrapped(keras.optimizers.SGD(0.1, momentum=0.9))
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        look = Look()
        fit(model, 8, [*wr(**arguments), look, backup, *more])
        return look.states

    undisturbed = wrapped(keras.optimizers.SGD(0.1, momentum=0.9))
    look = Look()
    fit(undisturbed, 8, [*wr(**arguments), look])
    with pytest.raises(RuntimeError, match="power cut"):
        start(Stop())
    states = start()
    assert min(states) == 6
    for old, new in zip(look.states[6], states[6], strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_pruning_that_is_made_up_for_needs_what_was_kept():
    with pytest.raises(
        ValueError, match=r"0 epochs.*`fit`.* 5\b.*`rewind_to=`"
    ):
        fit(wrapped(), 8, wr(dense_epochs=4), initial_epoch=5)


def test_a_directory_that_cannot_be_written_to(tmp_path):
    path = tmp_path / "file"
    path.write_text("in the way")
    model = wrapped()
    with pytest.raises(ValueError, match=r"`rewind_to`.*/file"):
        fit(model, 4, wr(dense_epochs=2, rewind_to=path))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)
    with pytest.raises(TypeError, match=r"`rewind_to`.*=5"):
        wr(dense_epochs=2, rewind_to=5)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_bfloat16_weights_survive_the_directory(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = wrapped()
    finally:
        keras.config.set_dtype_policy("float32")
    assert masked(model).kernels[0].variable.dtype == "bfloat16"
    look = Look()
    fit(model, 4, [*wr(dense_epochs=3, rewind_to=tmp_path), look])
    assert_rewound(look.states[2], look.states[3], look.masks)
