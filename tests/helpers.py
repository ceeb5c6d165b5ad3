"""Small models, data and an optimizer shared by tests."""

import contextlib
import json
import pathlib
import re
from functools import partial

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_bimp
from keras_bimp._src import slots

TOTAL = 72  # Prunable weights of `dense_model`.
STEPS = 4  # Steps per epoch of `fit`.
GOLDEN = pathlib.Path(__file__).parent / "golden"


def data(samples=64, features=6, classes=3, seed=0):
    """Generates data that a linear model can nearly classify."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, features)).astype("float32")
    return x, (x @ rng.standard_normal((features, classes))).argmax(1)


def dense_model(**kwargs):
    """Builds dense kernels of 48 and 24 weights, with batch norm between."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, **kwargs),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(3, **kwargs),
        ]
    )


def compile_model(model, optimizer=None, **kwargs):
    if optimizer is None:
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **kwargs,
    )
    return model


def wrapped(optimizer=None, model=None, **kwargs):
    model = dense_model() if model is None else model
    return compile_model(keras_bimp.wrap(model), optimizer, **kwargs)


def fit(model, epochs, callbacks=(), batch_size=16, **kwargs):
    x, y = data()
    wrapped = isinstance(model, keras_bimp._src.masking.MaskedModel)
    function = model.fit if wrapped else partial(keras_bimp.fit, model)
    return function(
        x,
        y,
        epochs=epochs,
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **kwargs,
    )


def array(variable):
    """Returns a copy of a variable's value, on any backend."""
    return np.array(ops.convert_to_numpy(ops.convert_to_tensor(variable.value)))


def float64_on_jax():
    """Enables float64 on JAX, which other backends always allow."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


def lines_with(text, *words):
    """Returns the lines of a text that contain all words, in any order.

    A word may be a figure, a path or a few words: `"2"` is not in "24" or 0.2.
    """
    patterns = [rf"(?<![\w.,]){re.escape(word)}(?!\w|[.,]\d)" for word in words]
    return [
        line
        for line in text.splitlines()
        if all(re.search(pattern, line) for pattern in patterns)
    ]


def skip_unless_steps_run_together():
    if keras.backend.backend() == "torch":
        pytest.skip("Keras runs one step at a time on torch")


def gradients(model, loss_fn, x, y):
    """Returns the training loss and its gradients, on any backend.

    Updates the model's other variables.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        return loss, tape.gradient(loss, model.trainable_variables)
    if keras.backend.backend() == "torch":
        model.zero_grad()
        loss = loss_fn(y, model(x, training=True))
        loss.backward()
        return loss.detach(), [v.value.grad for v in model.trainable_variables]
    import jax

    def stateless(trainable, others):
        outputs, others = model.stateless_call(
            trainable, others, x, training=True
        )
        return loss_fn(y, outputs), others

    (loss, others), found = jax.value_and_grad(stateless, has_aux=True)(
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
    )
    for variable, value in zip(
        model.non_trainable_variables, others, strict=True
    ):
        variable.assign(value)
    return loss, found


def masked(model):
    (layer,) = keras_bimp._src.masking.masked_layers(model)
    return layer


def kernels_and_masks(model):
    """Returns pairs of NumPy arrays: raw kernel, mask."""
    layer = masked(model)
    return [
        (array(kernel.variable), array(mask))
        for kernel, mask in zip(layer.kernels, layer.masks, strict=True)
    ]


def rates_of(callback):
    """Returns the rates of a run's plan, as adapted by its prunings."""
    return callback.plan.values([p.discount for p in callback.prunings])


def zeros(model):
    return sum(int((k == 0).sum()) for k, _ in kernels_and_masks(model))


@keras.saving.register_keras_serializable(package="keras_bimp_tests")
class RecordingSGD(keras.optimizers.SGD):
    """SGD that records, inside the compiled step, the rate of each update.

    `rates[i]` is the rate of the update at schedule count `i`; -1 if there was
    none.
    """

    def __init__(self, *args, length=1000, **kwargs):
        super().__init__(*args, **kwargs)
        self.length = length

    def build(self, variables):
        super().build(variables)
        self.rates = self.add_variable(
            (self.length,), keras.initializers.Constant(-1.0), name="rates"
        )
        self._first = variables[0].path

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        here = ops.arange(self.length) == ops.cast(self._iterations, "int32")
        rate = ops.cast(learning_rate, "float32")
        self.rates.assign(ops.where(here, rate, self.rates.value))
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def get_config(self):
        return {**super().get_config(), "length": self.length}


def recorded(optimizer):
    """Returns the rates recorded by a `RecordingSGD`, or one inside."""
    return ops.convert_to_numpy(slots.innermost(optimizer).rates.value)


class SaveAfter(keras.callbacks.Callback):
    """Saves the model at the end of one epoch."""

    def __init__(self, epochs, path):
        super().__init__()
        self.epochs = epochs
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            self.model.save(self.path)


def golden_kernels():
    """Returns the kernels of the reference's masks, in Keras layout."""
    info = json.loads((GOLDEN / "masks.json").read_text())["resnetish"]
    rng = np.random.RandomState(info["seed"])
    kernels = []
    for i, shape in enumerate(info["shapes"]):
        scale = np.sqrt(2 / np.prod(shape[1:])) * (1 + 0.25 * (i % 3))
        weights = (rng.randn(*shape) * scale).astype("float32")
        # From (out, in, height, width).
        order = [2, 3, 1, 0] if weights.ndim == 4 else [1, 0]
        kernels.append(np.transpose(weights, order))
    return info, kernels
