"""The complete workflow in a few tests, for each supported version of Keras.

`.ci/versions` runs only this file, with only the package, TensorFlow and pytest
installed, so nothing else may be imported here. Only some of the tests compile
with XLA, which takes most of their time.
"""

import pathlib
import re
import zipfile

import keras
import numpy as np
import pytest
from helpers import TOTAL
from helpers import RecordingSGD
from helpers import SaveAfter
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import masked
from helpers import recorded
from helpers import skip_unless_steps_run_together
from helpers import wrapped
from helpers import zeros
from keras import layers

import keras_bimp
from keras_bimp._src import slots
from keras_bimp._src.masking import state_variables

# Each run of `.ci/run` runs it twice, in `.ci/versions`.
pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]


def state(model):
    """Returns everything that training changes, including slots."""
    variables = state_variables(model) + slots.all_slots(model.optimizer)
    return [array(variable) for variable in variables]


def assert_same(model, other):
    for value, expected in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(value, expected)


def callbacks(target=0.8, **kwargs):
    return keras_bimp.callbacks(
        target, **{"dense_epochs": 2, "cycles": 2, "verbose": 0, **kwargs}
    )


class Zeros(keras.callbacks.Callback):
    """Counts zeros after each epoch, and mismatches of masks or slots."""

    def on_train_begin(self, logs=None):
        self.counts = []
        self.lost = 0

    def on_train_batch_end(self, batch, logs=None):
        layer = masked(self.model)
        pairs = slots.slots(
            self.model.optimizer, [kernel.variable for kernel in layer.kernels]
        )
        for (kernel, mask), remembered in zip(
            kernels_and_masks(self.model), pairs, strict=True
        ):
            self.lost += np.count_nonzero(kernel[~mask])
            for slot, start in remembered:
                self.lost += np.count_nonzero(array(slot)[~mask] - start)

    def on_epoch_end(self, epoch, logs=None):
        self.counts.append(zeros(self.model))


class KilledError(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Ends a `fit` after a batch, like a crash."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.now, self.last = None, (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == self.last:
            raise KilledError


def test_the_readme_says_what_the_oldest_versions_are():
    setup = (ROOT / "setup.cfg").read_text()
    readme = (ROOT / "README.md").read_text()
    for package, name in [("keras", "Keras"), ("tensorflow", "TensorFlow")]:
        (floor,) = re.findall(rf"^ +{package}>=(\S+)$", setup, re.MULTILINE)
        assert f"{name} {floor}" in readme


def test_a_wrapped_model_trains_as_the_plain_one():
    plain = compile_model(dense_model())
    model = wrapped()
    expected = fit(plain, 2).history
    assert fit(model, 2).history == expected
    for weight, expected in zip(
        model.trainable_variables, plain.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(array(weight), array(expected))


def test_prune_zeros_the_smallest_weights():
    model = wrapped()
    fit(model, 1)
    before = [kernel for kernel, _ in kernels_and_masks(model)]
    amounts = np.sort(np.abs(np.concatenate([k.ravel() for k in before])))
    keras_bimp.prune(model, 0.5, on_collapse="ignore")
    for kernel, (after, mask) in zip(
        before, kernels_and_masks(model), strict=True
    ):
        kept = np.abs(kernel) >= amounts[TOTAL // 2]
        np.testing.assert_array_equal(mask, kept)
        np.testing.assert_array_equal(after, np.where(kept, kernel, 0))


@pytest.mark.parametrize(
    "kwargs", [{}, {"jit_compile": False, "steps_per_execution": 2}]
)
def test_fit_with_cycles(kwargs):
    if kwargs:
        skip_unless_steps_run_together()
    model = wrapped(RecordingSGD(0.1, momentum=0.9), **kwargs)
    watch = Zeros()
    history = fit(model, 6, [*callbacks(retraining="llr"), watch]).history
    half = round((1 - 0.2**0.5) * TOTAL)  # Each cycle keeps the same fraction.
    whole = round(0.8 * TOTAL)
    assert watch.counts == [0, 0, half, half, whole, whole]
    assert watch.lost == 0
    np.testing.assert_allclose(
        history["sparsity"], np.array(watch.counts) / TOTAL
    )
    line = 0.1 * (1 - np.arange(8) / 8)  # Two epochs of four steps.
    np.testing.assert_allclose(
        recorded(model.optimizer)[:24], np.tile(line, 3), rtol=1e-5
    )


@pytest.mark.parametrize("name", ["Adam", "Adagrad", "Lion", "Muon"])
def test_what_optimizers_remember_is_pruned_too(name):
    model = wrapped(getattr(keras.optimizers, name)(0.01), jit_compile=False)
    watch = Zeros()
    fit(model, 4, [*callbacks(cycles=1), watch])
    assert watch.counts == [0, 0, round(0.8 * TOTAL), round(0.8 * TOTAL)]
    assert watch.lost == 0


def test_layers_of_many_kinds():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 4))
    x = layers.Conv1D(4, 3, padding="same")(inputs)
    x = layers.SeparableConv1D(4, 3, padding="same")(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.TimeDistributed(layers.Dense(4))(x)
    x = layers.Bidirectional(layers.LSTM(3))(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.2)(x)))
    kernels = [w for w in model.trainable_weights if w.name.endswith("kernel")]
    total = sum(int(np.prod(kernel.shape)) for kernel in kernels)
    before = array(kernels[0])
    model = keras_bimp.wrap(model)
    model.compile("adam", "mse", jit_compile=False)
    x = np.random.default_rng(0).standard_normal((16, 6, 4)).astype("float32")
    model.fit(x, x[:, 0, :2], epochs=4, callbacks=callbacks(0.5), verbose=0)
    stripped = keras_bimp.strip(model)
    pruned = sum(int((array(kernel) == 0).sum()) for kernel in kernels)
    assert pruned == round(0.5 * total)
    assert not np.array_equal(array(kernels[0]), before)
    np.testing.assert_array_equal(
        stripped.predict(x, verbose=0), model.predict(x, verbose=0)
    )


def test_strip_leaves_a_plain_model(tmp_path):
    model = wrapped()
    fit(model, 4, callbacks())
    x, y = data()
    expected = model.evaluate(x, y, verbose=0)
    stripped = keras_bimp.strip(model)
    assert stripped.evaluate(x, y, verbose=0) == pytest.approx(expected)
    stripped.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert b"keras_bimp" not in file.read("config.json")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.predict(x, verbose=0), stripped.predict(x, verbose=0)
    )


def test_a_wrapped_model_is_saved_and_goes_on(tmp_path):
    model = wrapped(keras.optimizers.Adam(0.01))
    fit(model, 1)
    keras_bimp.prune(model, 0.5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_same(again, model)
    for trained in (model, again):
        fit(trained, 1)
        keras_bimp.prune(trained, 0.8)
    assert_same(again, model)
    assert zeros(again) == round(0.8 * TOTAL)


def test_a_lambda_inside_is_refused(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,)), layers.Lambda(lambda x: x + 1), layers.Dense(2)]
    )
    keras_bimp.wrap(model).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="Lambda"):
        keras.models.load_model(tmp_path / "model.keras")


def test_a_killed_run_comes_to_the_same_bits(tmp_path):
    def train(folder, *others):
        model = wrapped(keras.optimizers.Adam(0.01), jit_compile=False)
        ours = callbacks(backup_dir=folder, save_freq=2)
        return model, fit(model, 6, [*ours, *others]).history

    expected, history = train(tmp_path / "undisturbed")
    for moment in [(1, 2), (4, 0), (5, 3)]:
        with pytest.raises(KilledError):
            train(tmp_path / "killed", Kill(*moment))
    model, resumed = train(tmp_path / "killed")
    assert_same(model, expected)
    np.testing.assert_equal(resumed, history)


def test_export_writes_what_tensorflow_serves(tmp_path):
    import tensorflow as tf

    model = wrapped()
    fit(model, 4, callbacks())
    x, _ = data()
    expected = model.predict(x, verbose=0)
    path = keras_bimp.export(keras_bimp.strip(model), tmp_path / "1")
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]
    (found,) = serve(**{name: tf.constant(x)}).values()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    kernels = [v.numpy() for v in serve.variables if len(v.shape) == 2]
    assert sum(int((k == 0).sum()) for k in kernels) == round(0.8 * TOTAL)


def test_shrink_takes_filters_out():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Add()([x, layers.Conv2D(8, 3, padding="same", name="next")(x)])
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    for name in ("first", "next"):
        kernel = array(model.get_layer(name).kernel)
        kernel[..., [1, 5]] = 0
        model.get_layer(name).kernel.assign(kernel)
    shrunk = keras_bimp.shrink(model, align=1)
    shapes = [
        tuple(shrunk.get_layer(name).kernel.shape)
        for name in ("first", "next", "head")
    ]
    assert shapes == [(3, 3, 3, 6), (3, 3, 6, 6), (4 * 4 * 6, 2)]
    x = np.random.default_rng(0).standard_normal((5, 8, 8, 3))
    np.testing.assert_allclose(
        shrunk.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5
    )


def test_multiply_adds():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
    x = layers.DepthwiseConv2D(3)(x)
    x = layers.LSTM(5)(layers.Reshape((4, 4))(x))
    model = keras_bimp.wrap(keras.Model(inputs, layers.Dense(2)(x)))
    steps = 4 * (4 * 5 + 5 * 5) * 4
    dense = 4 * 4 * 3 * 3 * 3 * 4 + 2 * 2 * 3 * 3 * 4 + steps + 5 * 2
    macs = keras_bimp.metrics.count_macs(model)
    assert (macs.dense, macs.nonzero, macs.unknown) == (dense, dense, ())
    first = masked(model).masks[0]
    first.assign(np.arange(108).reshape(first.shape) % 4 == 0)
    macs = keras_bimp.metrics.count_macs(model)
    assert (macs.dense, macs.nonzero) == (dense, dense - 4 * 4 * 81)
    assert keras_bimp.metrics.theoretical_speedup(model) == pytest.approx(
        dense / (dense - 4 * 4 * 81)
    )


def test_a_model_saved_in_between_has_the_rates_of_the_run(tmp_path):
    save = SaveAfter(5, tmp_path / "model.keras")
    fit(wrapped(), 6, [*callbacks(retraining="llr"), save])
    again = keras.models.load_model(save.path)
    assert zeros(again) == round(0.8 * TOTAL)
    schedule = again.optimizer._learning_rate
    rates = [float(schedule(step)) for step in range(16, 24)]
    line = 0.1 * (1 - np.arange(8) / 8)
    np.testing.assert_allclose(rates, line, rtol=1e-5)
