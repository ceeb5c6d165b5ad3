"""The regression problem of the golden traces, through the public API."""

import contextlib
from typing import NamedTuple

import keras
import numpy as np
from helpers import array
from helpers import float64_on_jax

import keras_bimp
from keras_bimp import baselines

STEPS_PER_EPOCH = 5
RATE = 0.05
# Keras' SGD would convert a Python number to float32.
MOMENTUM = np.float64(0.9)


def problem():
    """Returns inputs, targets and the initial kernel of shape (out, in)."""
    rng = np.random.RandomState(42)
    x = rng.randn(32, 10)
    line = np.linspace(-1, 1, 10)
    weights = np.stack([line, 0.5 * line[::-1]])
    y = x @ weights.T + 0.01 * rng.randn(32, 2)
    return x, y, np.random.RandomState(7).randn(2, 10) * 0.5


class Rows(NamedTuple):
    """The stored values after each step, including the initial ones.

    Args:
        kernel: Array of shape (steps + 1, 2, 10).
        learned: `s` of STR and CS or the thresholds of DST, or `None`.
        momentum: The momentum. Keras' is the reference's times minus the rate.
        final: The kernel that `strip` returns.
    """

    kernel: np.ndarray
    learned: np.ndarray | None
    momentum: np.ndarray
    final: np.ndarray


def recipe_of(method, weight_decay=0.0, **options):
    """Returns the recipe of a method for the golden traces."""
    decay = {"weight_decay": weight_decay, "verbose": 0}
    quiet = {"verbose": 0}
    targeted = {"target_sparsity": 0.5, **options}
    gradual = {"interval": 2, **targeted, **quiet}
    if method == "gsm":
        rates = {"learning_rate": RATE, "momentum": MOMENTUM}
        nesterov = weight_decay > 0
        return baselines.gsm(**targeted, **rates, nesterov=nesterov, **decay)
    makers = {
        "gmp_soft": lambda: baselines.gmp(**gradual),
        "gmp_hard": lambda: baselines.gmp(**gradual, hard=True),
        "dpf": lambda: baselines.dpf(**gradual),
        "dnw": lambda: baselines.dnw(**targeted, **quiet),
        "lc": lambda: baselines.lc(**targeted, **decay),
        "str": lambda: baselines.str(**{"s_init": -2.0, **options}, **decay),
        "cs": lambda: baselines.cs(**{"penalty": 0.001, **options}, **quiet),
        "dst": lambda: baselines.dst(**{"alpha": 0.05, **options}, **quiet),
    }
    return makers[method]()


class _Watch(keras.callbacks.Callback):
    """Records stored values, as arrays whose last axis is the inputs."""

    def __init__(self, kernel, rule):
        super().__init__()
        self._kernel, self._rule = kernel, rule
        self.rows = [(array(kernel).T, self._learned(), np.zeros((2, 10)))]

    def on_train_batch_end(self, batch, logs=None):
        optimizer = self.model.optimizer  # Updates JAX' variables.
        ((pairs),) = keras_bimp._src.slots.slots(optimizer, [self._kernel])
        ((momentum, _),) = pairs
        self.rows.append(
            (array(self._kernel).T, self._learned(), array(momentum).T)
        )

    def _learned(self):
        if isinstance(self._rule, baselines.StepThreshold):
            return np.array(keras.ops.convert_to_numpy(self._rule.threshold))
        return array(self._rule.s).T if hasattr(self._rule, "s") else None


@contextlib.contextmanager
def float64():
    """Makes Keras compute in float64, except on torch."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        with float64_on_jax():
            yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def trace(method, weight_decay=0.0, steps=40, beside=lambda *_: [], **options):
    """Trains on the problem.

    Args:
        method: Any of gmp_soft, gmp_hard, gsm, lc, dpf, dnw, str, cs, dst,
            sgd.
        weight_decay: Coupled; with it the momentum is Nesterov's.
        steps: A multiple of 5.
        beside: Callable (`Masked`, kernel) -> more callbacks, called first.
        **options: Options of the recipe.

    Returns:
        `Rows`.
    """
    with float64():
        return _trace(method, weight_decay, steps, beside, options)


def _trace(method, weight_decay, steps, beside, options):
    x, y, start = problem()
    regularizer = None
    if weight_decay and method not in ("gsm", "lc"):
        regularizer = keras.regularizers.L2(weight_decay / 2)
    dense = keras.layers.Dense(
        2, use_bias=False, kernel_regularizer=regularizer
    )
    model = keras.Sequential([keras.Input((10,)), dense])
    dense.kernel.assign(start.T)
    callbacks, optimizer, rule = [], None, None
    if method != "sgd":
        recipe = recipe_of(method, weight_decay, **options)
        model = keras_bimp.wrap(model, rule=recipe.rule)
        (rule,) = model.wrapper.rules
        optimizer = recipe.optimizer
        callbacks = [
            *recipe.callbacks,
            *beside(model.wrapper, dense.kernel),
        ]
    if optimizer is None:
        optimizer = keras.optimizers.SGD(
            RATE, momentum=MOMENTUM, nesterov=weight_decay > 0
        )
    model.compile(optimizer, "mse")
    watch = _Watch(dense.kernel, rule)
    # An epoch is the full batch several times.
    model.fit(
        np.tile(x, (STEPS_PER_EPOCH, 1)),
        np.tile(y, (STEPS_PER_EPOCH, 1)),
        batch_size=len(x),
        epochs=steps // STEPS_PER_EPOCH,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, watch],
    )
    kernels, learned, momenta = zip(*watch.rows, strict=True)
    if method != "sgd":
        keras_bimp.strip(model)
    return Rows(
        np.array(kernels),
        None if learned[0] is None else np.array(learned),
        np.array(momenta),
        array(dense.kernel).T,
    )
