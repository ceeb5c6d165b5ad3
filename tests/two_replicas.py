"""A strategy with two replicas on one processor, and a model for it."""

import functools

import keras
from keras import layers


@functools.cache
def mirrored():
    """Returns the strategy of this process, which can have only one."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
    return tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])


def dense_model_without_batch_norm():
    """With batch normalization, each replica would use half a batch."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(3),
        ]
    )
