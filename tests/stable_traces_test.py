"""The stable methods against their references, and against NumPy."""

import functools
import json

import keras
import numpy as np
import pytest
import stable_methods
from helpers import GOLDEN
from helpers import array
from regression_problem import RATE
from regression_problem import trace

from keras_bimp._src import slots

# Keras' L2 rounds its factor to float32, which leaves this unchanged.
DECAY = 1 / 128
NAMES = {
    "sgd": "Dense",
    "lc": "LC",
    "gsm": "GSM",
    "gmp_soft": "GMP_soft",
    "gmp_hard": "GMP_hard",
    "dpf": "DPF",
    "dnw": "DNW",
    "str": "STR",
    "cs": "CS",
    "dst": "DST",
}


@functools.cache
def golden(method):
    content = json.loads((GOLDEN / "stable_methods.json").read_text())
    return content[NAMES[method]]


def assert_close(found, expected, tolerance=1e-9, torchs=2e-6):
    """Compares arrays; on torch Keras always computes in float32."""
    if keras.backend.backend() == "torch":
        tolerance = max(tolerance, torchs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.every_backend
@pytest.mark.parametrize(
    "method", ["sgd", "lc", "gsm", "gmp_soft", "dpf", "dnw", "str"]
)
def test_weights_are_those_of_the_reference(method):
    rows = trace(method)
    assert_close(rows.kernel, golden(method)["weights"])
    if method == "str":
        assert_close(rows.learned, golden(method)["learned"], torchs=1e-5)


@pytest.mark.every_backend
def test_gates_are_those_of_the_reference():
    rows = trace("cs")
    # beta grows to 300, and with it the rounding errors of float32.
    assert_close(rows.kernel, golden("cs")["weights"], torchs=1e-3)
    assert_close(rows.learned, golden("cs")["learned"], torchs=1e-3)


@pytest.mark.every_backend
def test_thresholds_are_those_of_the_reference():
    # The reference rounded to float32 in between.
    rows = trace("dst")
    for found, name in ((rows.kernel, "weights"), (rows.learned, "learned")):
        expected = np.reshape(golden("dst")[name], found.shape)
        assert_close(found[:11], expected[:11], 1e-7)
        assert_close(found, expected, 5e-4, torchs=2e-3)


class Force(keras.callbacks.Callback):
    """Replaces the selection of the pruning before an epoch."""

    def __init__(self, epoch, mask, masked, kernel):
        super().__init__()
        self.epoch, self.chosen = epoch, mask
        self.masked, self.kernel = masked, kernel

    def on_epoch_end(self, epoch, logs=None):
        self.before = [array(v) for v in self.stored()]

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.masked.masks[0].assign(self.chosen)
            for variable, value in zip(self.stored(), self.before, strict=True):
                variable.assign(value * self.chosen)

    def stored(self):
        (pairs,) = slots.slots(self.model.optimizer, [self.kernel])
        return [self.kernel, *(slot for slot, _ in pairs)]


@pytest.mark.every_backend
def test_hard_pruning_is_that_of_the_reference():
    # The reference ranked the pruning after step 20 one step too early.
    bits = "11100001111010000101"
    mask = np.array([bit == "1" for bit in bits]).reshape(2, 10)

    def beside(*inside):
        return [Force(4, mask.T, *inside)]

    expected = golden("gmp_hard")
    masks = np.array(
        [np.ones((2, 10)) if m is None else m for m in expected["masks"]]
    )
    np.testing.assert_array_equal(masks[21], mask)
    momentum = np.array([np.zeros((2, 10)), *expected["momentum"][1:]])
    for found, steps in (
        (trace("gmp_hard"), 21),
        (trace("gmp_hard", beside=beside), 41),
    ):
        kept = masks[:steps]
        weights = kept * np.array(expected["weights"])[:steps]
        # As in the reference, a row is before the pruning after its step.
        assert_close(kept * found.kernel[:steps], weights)
        assert_close(
            kept * found.momentum[:steps], -RATE * kept * momentum[:steps]
        )
        pruned = found.kernel[11:21][masks[11:21] == 0]
        assert (pruned == 0).all()


CASES = [
    ("gsm", {"target_sparsity": 0.9}),
    ("lc", {"target_sparsity": 0.9}),
    ("gmp_soft", {"target_sparsity": 0.9, "interval": 1}),
    ("gmp_hard", {"target_sparsity": 0.9, "interval": 1}),
    ("dpf", {"target_sparsity": 0.8, "interval": 1, "every": 3}),
    # New masks are selected after the last step.
    ("dpf", {"every": 8}),
    ("dnw", {"target_sparsity": 0.9}),
    ("str", {"s_init": -1.0}),
    ("cs", {"s_init": -0.05, "penalty": 0.01, "beta_final": 50.0}),
    ("dst", {"alpha": 0.2}),
    # The thresholds grow until nothing is left, and start again from 0.
    ("dst", {"alpha": 3.0}),
]


@pytest.mark.parametrize(("method", "options"), CASES)
def test_weights_are_those_of_numpy(method, options):
    expected, oracle = stable_methods.train(method, DECAY, **options)
    rows = trace(method, DECAY, **options)
    assert_close(rows.kernel, expected)
    assert_close(rows.final, oracle.final())
    np.testing.assert_array_equal(rows.final == 0, oracle.final() == 0)
    if options.get("alpha") == 3.0:
        assert oracle.resets


@pytest.mark.job("jax")
@pytest.mark.parametrize("method", ["lc", "gsm", "str", "dst"])
def test_weights_are_those_of_numpy_on_jax(method):
    expected, oracle = stable_methods.train(method, DECAY)
    rows = trace(method, DECAY)
    assert_close(rows.kernel, expected)
    assert_close(rows.final, oracle.final())


def test_numpy_is_the_reference():
    for method in NAMES:
        if method not in ("gmp_hard", "dst"):
            weights, _ = stable_methods.train(method)
            assert_close(weights, golden(method)["weights"])
