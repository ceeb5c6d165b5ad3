"""Gradients of the loss, for the saliency criterion."""

import functools

import keras
import numpy as np
from keras import ops

from keras_bimp._src.backends import outside_strategies
from keras_bimp._src.evaluating import fixed_batch_size
from keras_bimp._src.keras_internals.layers import takes_training
from keras_bimp._src.keras_internals.trainer import loss_of
from keras_bimp._src.processes import check_alone
from keras_bimp._src.retraining.samples import Samples


def gradients(
    model: keras.Model,
    variables: list[keras.Variable],
    samples: Samples,
    limit: int | None = None,
) -> list[np.ndarray]:
    """Return the gradient of the mean loss over data, in inference mode.

    The state and the metrics of the model do not change.

    Args:
        model: A compiled model.
        variables: The variables to differentiate by.
        samples: The data.
        limit: Maximum number of batches. Defaults to all.

    Returns:
        An array per variable.

    Raises:
        ValueError: If the model is not compiled with a loss, the data is
            empty, or a gradient is not finite.
    """
    check_alone("criterion='saliency'")
    if not getattr(model, "compiled", False):
        raise ValueError(
            "`model` must be compiled with a loss for criterion='saliency'. "
            f"Received: model={model!r}"
        )
    # In half precision, small gradients vanish and large ones overflow.
    scales = [1.0]
    if model.optimizer is not None:
        scales = sorted({1.0, float(model.optimizer.scale_loss(1.0))})
    while scales:
        averages = outside_strategies(
            functools.partial(
                _averages, model, variables, samples, limit, scales.pop()
            )
        )
        unbounded = [
            variable.path
            for variable, average in zip(variables, averages, strict=True)
            if not np.isfinite(average).all()
        ]
        if not unbounded:
            return averages
    raise ValueError(
        "The gradients of the loss on `data` must be finite. "
        f"Received: a non-finite gradient of '{unbounded[0]}'"
    )


def _averages(model, variables, samples, limit, scale):
    values = [ops.convert_to_tensor(v.value) for v in variables]
    sums = [np.zeros(v.shape) for v in variables]
    training = {"training": False} if takes_training(model) else {}
    seen = 0
    for x, y, sample_weight in samples.batches(limit, fixed_batch_size(model)):
        size = len(keras.tree.flatten(x)[0])
        seen += size
        # As in `fit`, for losses that need tensors.
        x, y, sample_weight = keras.tree.map_structure(
            _as_tensor, (x, y, sample_weight)
        )

        def loss(values, x=x, y=y, sample_weight=sample_weight):
            scope = keras.StatelessScope(
                list(zip(variables, values, strict=True)), collect_losses=True
            )
            with scope:
                total = loss_of(
                    model,
                    x=x,
                    y=y,
                    y_pred=model(x, **training),
                    sample_weight=sample_weight,
                    training=False,
                )
            return total * scale

        found = _DERIVATIVES[keras.backend.backend()](loss, values)
        for sum_, gradient in zip(sums, found, strict=True):
            if gradient is not None:
                gradient = ops.convert_to_numpy(gradient)
                sum_ += gradient.astype(np.float64) * (size / scale)
    if not seen:
        raise ValueError(
            "`data` must have at least one batch. "
            f"Received: data={samples.data!r}"
        )
    return [sum_ / seen for sum_ in sums]


def _as_tensor(array):
    return (
        ops.convert_to_tensor(array) if isinstance(array, np.ndarray) else array
    )


def _derive_tensorflow(loss, values):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(values)
        total = loss(values)
    return tape.gradient(total, values)


def _derive_jax(loss, values):
    import jax

    return jax.grad(loss)(values)


def _derive_torch(loss, values):
    import torch

    values = [value.detach().requires_grad_() for value in values]
    with torch.enable_grad():
        return torch.autograd.grad(loss(values), values, allow_unused=True)


_DERIVATIVES = {
    "tensorflow": _derive_tensorflow,
    "jax": _derive_jax,
    "torch": _derive_torch,
}
