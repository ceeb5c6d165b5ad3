"""Check what `fit` supports under a `tf.distribute` strategy."""

import keras

from keras_bimp._src.keras_internals.trainer import strategy_of
from keras_bimp._src.slots import innermost


def check_strategy(model: keras.Model) -> None:
    """Raise ValueError if `fit` cannot train `model` under its strategy.

    Keras' own `fit` would fail too, but later and with other errors.
    """
    strategy = strategy_of(model)
    if strategy is None:
        return
    import tensorflow as tf

    several = strategy.num_replicas_in_sync > 1
    known = (
        tf.distribute.MirroredStrategy,
        tf.distribute.OneDeviceStrategy,
        tf.distribute.TPUStrategy,
    )
    if not several:
        known += (tf.distribute.MultiWorkerMirroredStrategy,)
    kind = type(strategy).__name__
    if not isinstance(strategy, known):
        raise ValueError(
            "`model` must be built in the scope of a MirroredStrategy, "
            "OneDeviceStrategy or TPUStrategy, or of none: Keras' own `fit` "
            f"fails with others. Received: {kind}. To train on several "
            "machines, use the JAX backend, with "
            "`keras.distribution.initialize()` and "
            "`keras.distribution.set_distribution(keras.distribution."
            "DataParallel())`; see examples/multi_host.py"
        )
    if not several or model.optimizer is None:
        return
    optimizer = innermost(model.optimizer)
    averages = getattr(optimizer, "use_ema", False)
    for name, value, wanted in (
        (
            "gradient_accumulation_steps",
            getattr(optimizer, "gradient_accumulation_steps", None),
            None,
        ),
        (
            "ema_overwrite_frequency",
            optimizer.ema_overwrite_frequency if averages else None,
            None,
        ),
        (
            "steps_per_execution",
            1
            if isinstance(strategy, tf.distribute.TPUStrategy)
            else model.steps_per_execution,
            1,
        ),
    ):
        if value != wanted:
            raise ValueError(
                f"`{name}` must be {wanted} under a {kind} of several "
                "replicas: Keras' own `fit` fails with other values. "
                f"Received: {name}={value}"
            )
