"""The core, with the same assertions on TensorFlow, JAX and torch."""

import contextlib
import importlib.util
import pathlib
import warnings

import jobs
import keras
import numpy as np
import pytest
from helpers import GOLDEN
from helpers import STEPS
from helpers import TOTAL
from helpers import RecordingSGD
from helpers import array
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import float64_on_jax
from helpers import golden_kernels
from helpers import kernels_and_masks
from helpers import masked
from helpers import rates_of
from helpers import recorded
from helpers import skip_unless_steps_run_together
from helpers import wrapped
from helpers import zeros
from keras import layers

import keras_bimp
from keras_bimp._src import slots

pytestmark = pytest.mark.every_backend

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "digits.py"


def test_it_runs_on_the_backend_that_it_says(backend):
    assert backend == jobs.JOBS[jobs.current()]["KERAS_BACKEND"]


class Watch(keras.callbacks.Callback):
    """Checks after each batch that pruned weights and their slots are 0."""

    def __init__(self):
        super().__init__()
        self.slots = 0

    def on_train_batch_end(self, batch, logs=None):
        layer = masked(self.model)
        optimizer = self.model.optimizer
        for (kernel, mask), pairs in zip(
            kernels_and_masks(self.model),
            slots.slots(optimizer, [k.variable for k in layer.kernels]),
            strict=True,
        ):
            assert np.isfinite(kernel.astype("float64")).all()
            assert (kernel[~mask] == 0).all()
            for slot, _ in pairs:
                assert (array(slot)[~mask] == 0).all(), slot.path
            self.slots = len(pairs)


class Kernels(layers.Layer):
    """Holds kernels and does nothing."""

    def __init__(self, shapes, **kwargs):
        super().__init__(**kwargs)
        self.shapes = shapes

    def build(self, input_shape):
        self.kernels = [
            self.add_weight(shape=shape, name=f"kernel_{i}_kernel")
            for i, shape in enumerate(self.shapes)
        ]

    def call(self, x):
        return x


@pytest.mark.parametrize(
    "dtype",
    jobs.first_and_slow(
        ["float32", "bfloat16", "float16"], ["float32"], "jax", "torch"
    ),
)
def test_the_same_weights_give_the_same_masks(dtype):
    _, kernels = golden_kernels()
    layer = Kernels([kernel.shape for kernel in kernels], dtype=dtype)
    model = keras_bimp.wrap(keras.Sequential([keras.Input((1,)), layer]))
    for variable, kernel in zip(layer.kernels, kernels, strict=True):
        variable.assign(kernel)
    keras_bimp.prune(model, 0.9, on_collapse="ignore")
    masks = [mask for _, mask in kernels_and_masks(model)]
    if dtype == "float32":
        stored = np.load(GOLDEN / "masks.npz")["resnetish/glob/0.9"]
        golden = np.unpackbits(stored)[: sum(k.size for k in kernels)]
        found = [to_reference(mask) for mask in masks]
        np.testing.assert_array_equal(np.concatenate(found), golden)
    rounded = [array(kernel) for kernel in layer.kernels]
    expected = keras_bimp.select(rounded, 0.9)
    for mine, theirs in zip(masks, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def to_reference(mask):
    """Flattens in the reference's layout: output, input, height, width."""
    order = [3, 2, 0, 1] if mask.ndim == 4 else [1, 0]
    return mask.transpose(order).ravel()


OPTIMIZERS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "average": {"use_ema": True, "ema_overwrite_frequency": 3},
    "clipnorm": {"clipnorm": 0.5},
    "global_clipnorm": {"global_clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.1},
    "weight_decay": {"weight_decay": 0.01},
}


def check_run(model):
    """Three phases: exact sparsities, zeros, and the plan's rates."""
    (callback,) = keras_bimp.callbacks(0.8, dense_epochs=3, cycles=2, verbose=0)
    watch = Watch()
    history = fit(
        model,
        7,
        [callback, watch],
    ).history
    counts = callback.plan.pruned(TOTAL)
    np.testing.assert_allclose(
        np.array(history["sparsity"]) * TOTAL,
        [counts[0]] * 3 + [counts[1]] * 2 + [counts[2]] * 2,
    )
    assert zeros(model) == round(0.8 * TOTAL)
    assert watch.slots > 0
    rates = recorded(model.optimizer)
    done = rates > -1
    np.testing.assert_allclose(
        rates[done],
        rates_of(callback)[done[: 7 * STEPS]],
        rtol=1e-6,
        atol=1e-9,
    )
    assert np.isfinite(history["loss"]).all()
    return done.sum()


@pytest.mark.slow("jax", "torch")
@pytest.mark.parametrize(
    "name",
    jobs.first_and_slow(OPTIMIZERS, ("plain", "accumulation", "average")),
)
def test_zeros_and_rates_whatever_the_optimizer_does(name):
    optimizer = RecordingSGD(0.1, momentum=0.9, **OPTIMIZERS[name])
    updates = check_run(wrapped(optimizer))
    assert updates == 7 * STEPS / (2 if name == "accumulation" else 1)


@pytest.mark.parametrize(
    "together", jobs.first_and_slow([1, 3], [1], "jax", "torch")
)
@pytest.mark.parametrize("jit_compile", [True, False])
def test_zeros_and_rates_however_the_step_is_compiled(jit_compile, together):
    if together > 1:
        skip_unless_steps_run_together()
    if jit_compile and keras.backend.backend() == "torch":
        check_torch_compile()
        return
    model = wrapped(
        RecordingSGD(0.1, momentum=0.9),
        jit_compile=jit_compile,
        steps_per_execution=together,
    )
    assert check_run(model) == 7 * STEPS


def check_torch_compile():
    """Does not inspect the step, which would break torch's compiler."""
    model = wrapped(jit_compile=True)
    ours = keras_bimp.callbacks(0.8, dense_epochs=1, cycles=2, verbose=0)
    watch = Watch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # From torch's compiler.
        fit(model, 3, [*ours, watch])
    assert model.jit_compile
    assert watch.slots == 1
    assert zeros(model) == round(0.8 * TOTAL)


@pytest.mark.parametrize(
    "policy",
    jobs.first_and_slow(
        ["mixed_float16", "mixed_bfloat16", "float64", "bfloat16"],
        ["mixed_float16", "float64"],
    ),
)
def test_zeros_and_rates_in_every_precision(policy):
    precise = policy == "float64"
    with float64_on_jax() if precise else contextlib.nullcontext():
        check_precision(policy)


def check_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = wrapped(RecordingSGD(0.05, momentum=0.9))
    finally:
        keras.config.set_dtype_policy("float32")
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    assert model.layers[0].kernel.dtype == {
        "float64": "float64",
        "bfloat16": "bfloat16",
    }.get(policy, "float32")
    assert check_run(model) == 7 * STEPS


def test_a_pruning_between_epochs_takes_effect_at_once():
    calls = 0

    class Counting(layers.Layer):
        def call(self, x):
            nonlocal calls
            calls += 1
            return x

    class Prune(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.calls = []

        def on_epoch_begin(self, epoch, logs=None):
            self.calls.append(calls)
            if epoch in (2, 3):
                target = {2: 0.5, 3: 0.8}[epoch]
                keras_bimp.prune(self.model, target)
                assert zeros(self.model) == round(target * TOTAL)

    model = dense_model()
    model.add(Counting())
    model = wrapped(model=model)
    prune, watch = Prune(), Watch()
    fit(model, 5, [prune, watch])
    # With an old mask, momentum alone would move pruned weights.
    assert zeros(model) == round(0.8 * TOTAL)
    new = np.diff([*prune.calls, calls])
    if keras.backend.backend() == "torch":
        assert (new == STEPS).all()  # Nothing is compiled.
    else:
        # Only the first epoch compiles the step.
        assert (new[1:] == 0).all()


def test_saved_and_stripped_it_computes_the_same(tmp_path):
    model = wrapped()
    fit(model, 4, keras_bimp.callbacks(0.8, dense_epochs=2, verbose=0))
    x, y = data()
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "wrapped.keras")
    again = keras.models.load_model(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), expected)
    for (kernel, mask), (theirs, other) in zip(
        kernels_and_masks(model), kernels_and_masks(again), strict=True
    ):
        np.testing.assert_array_equal(kernel, theirs)
        np.testing.assert_array_equal(mask, other)
    for mine, theirs in zip(
        model.optimizer.variables, again.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(array(mine), array(theirs))
    evaluated = model.evaluate(x, y, verbose=0)
    stripped = keras_bimp.strip(model)
    np.testing.assert_array_equal(stripped.predict(x, verbose=0), expected)
    np.testing.assert_allclose(stripped.evaluate(x, y, verbose=0), evaluated)
    stripped.save(tmp_path / "stripped.keras")
    plain = keras.models.load_model(tmp_path / "stripped.keras")
    np.testing.assert_array_equal(plain.predict(x, verbose=0), expected)
    assert keras_bimp.sparsity(plain).prunable == 58 / TOTAL


@pytest.mark.slow
def test_digits_are_as_accurate_as_on_tensorflow():
    spec = importlib.util.spec_from_file_location("digits", EXAMPLE)
    digits = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(digits)
    train, test = digits.load_data()
    keras.utils.set_random_seed(0)
    model = keras_bimp.wrap(digits.build_model())
    ours = keras_bimp.callbacks(0.95, dense_epochs=16, verbose=0)
    model.fit(*train, epochs=24, batch_size=64, callbacks=ours, verbose=0)
    model = keras_bimp.strip(model)
    kernels = [array(v) for v in model.weights if v.path.endswith("kernel")]
    assert sum((k == 0).sum() for k in kernels) == round(0.95 * 72_608)
    # The mean of three seeds of examples/digits.py, of 60 epochs, was 97.69%.
    _, accuracy = model.evaluate(*test, verbose=0)
    # Three standard deviations of a share of 360 images are 2.4 points.
    assert accuracy > 0.9769 - 0.024
