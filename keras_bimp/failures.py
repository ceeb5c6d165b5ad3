"""Trainings that broke: whose loss or weights are not finite."""

import hashlib
import math
import warnings
import weakref

import keras
from keras import ops

from keras_bimp.backends import as_array
from keras_bimp.masking import MaskedModel

# Models -> why their last training failed.
_FAILED = weakref.WeakKeyDictionary()


def all_finite(model: keras.Model) -> bool:
    """Whether every weight that a model trains is a finite number."""
    bad = [
        ops.any(ops.logical_not(ops.isfinite(v.value)))
        for v in model.trainable_variables
        if keras.backend.is_float_dtype(v.dtype)
    ]
    return not bad or not bool(ops.any(ops.stack(bad)))


def stop_if_broken(model: keras.Model, epoch: int, logs: dict) -> None:
    """Stops a `fit` whose loss or weights are no longer finite.

    Warns, and has `why_failed` say why from then on.

    Args:
        model: The model that is trained.
        epoch: Integer >= 0, the epoch that ends now.
        logs: Its logs.
    """
    loss = logs.get("loss")
    if loss is not None and not math.isfinite(loss):
        reason = f"the loss of epoch {epoch + 1} is {loss}"
    elif not all_finite(model):
        reason = f"after epoch {epoch + 1} a weight is not finite"
    else:
        return
    stop(model, reason)


def stop(model: keras.Model, reason: str) -> None:
    """Stops a `fit` that failed, with a warning the first time."""
    model.stop_training = True
    if model not in _FAILED:
        _FAILED[model] = reason, None
        warnings.warn(
            f"The training is stopped: {reason}. A lower learning rate or "
            "clipped gradients may help.",
            RuntimeWarning,
            stacklevel=2,
        )


def settle(model: keras.Model) -> None:
    """Holds a failure against the weights that its `fit` ends with."""
    reason, _ = _FAILED.get(model, (None, None))
    mark_failed(model, reason)


def mark_failed(model: keras.Model, reason: str | None) -> None:
    """Says why the training of a model failed; `None` if it did not."""
    parts = [model]
    if isinstance(model, MaskedModel):
        parts.append(model.wrapper.layer)  # What `strip` returns.
    for part in parts:
        _FAILED.pop(part, None)
        if reason is not None:
            _FAILED[part] = reason, _digest(part)


def why_failed(model: keras.Model) -> str | None:
    """Why the last training of a model failed; `None` if it did not.

    A model that has other weights since then did not.
    """
    if model not in _FAILED:
        return None
    reason, digest = _FAILED[model]
    return reason if digest in (None, _digest(model)) else None


def _digest(model):
    digest = hashlib.sha256()
    for variable in model.trainable_variables:
        digest.update(as_array(variable, copy=False).tobytes())
    return digest.digest()
