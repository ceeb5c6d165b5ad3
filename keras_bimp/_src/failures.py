"""Failed trainings, whose loss or weights are not finite."""

import hashlib
import math
import warnings

import keras
from keras import ops

from keras_bimp._src.backends import as_array
from keras_bimp._src.model_record import record_of


def all_finite(model: keras.Model) -> bool:
    """Return whether all trainable weights of a model are finite."""
    bad = [
        ops.any(ops.logical_not(ops.isfinite(v.value)))
        for v in model.trainable_variables
        if keras.backend.is_float_dtype(v.dtype)
    ]
    return not bad or not bool(ops.any(ops.stack(bad)))


def stop_if_broken(model: keras.Model, epoch: int, logs: dict) -> None:
    """Stop a `fit` whose loss or weights are no longer finite.

    Warns, and stores the reason for `why_failed`.

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
    """Stop a failed `fit`, with a warning the first time."""
    model.stop_training = True
    record = record_of(model)
    if record.failure is None:
        record.failure = reason, None
        warnings.warn(
            f"Training is stopped: {reason}. A lower learning rate or "
            "clipped gradients may help.",
            RuntimeWarning,
            stacklevel=2,
        )


def settle(model: keras.Model) -> None:
    """Associate a failure with the final weights of its `fit`."""
    record = record_of(model)
    if record.failure is not None:
        mark_failed(model, record.failure[0])


def mark_failed(model: keras.Model, reason: str | None) -> None:
    """Record why the training of a model failed; `None` if it did not."""
    record = record_of(model)
    record.failure = None if reason is None else (reason, _digest(record))


def why_failed(model: keras.Model) -> str | None:
    """Return why the last training of a model failed; `None` if it did not.

    A failure no longer counts once the weights have changed.
    """
    record = record_of(model)
    if record.failure is None:
        return None
    reason, digest = record.failure
    return reason if digest in (None, _digest(record)) else None


def _digest(record):
    digest = hashlib.sha256()
    for variable in record.model().trainable_variables:
        digest.update(as_array(variable, copy=False).tobytes())
    return digest.hexdigest()
