"""Upsampling in operations of LiteRT."""

import functools

import keras

from keras_bimp._src.keras_internals.layers import layers_in


def resizing_calls(model: keras.Model) -> list[tuple]:
    """Returns calls of `UpSampling2D` layers, as for `replaced`.

    Keras repeats rows, then columns. Behind two such layers, LiteRT's converter
    may know the width of an image but not its height, and rejects convolutions
    (TensorFlow 2.21). One resize computes the same, is an operation of LiteRT,
    and keeps both sizes.

    Args:
        model: A model on the TensorFlow backend.
    """
    return [
        (layer, "call", functools.partial(_resize, layer))
        for layer in layers_in(model)
        if type(layer) is keras.layers.UpSampling2D
        and layer.interpolation == "nearest"
        and layer.data_format == "channels_last"
        and layer.compute_dtype == "float32"
    ]


def _resize(layer, images):
    import tensorflow as tf

    known, size = list(images.shape)[1:3], tf.shape(images)[1:3]
    if None not in known:
        size = tf.constant(known)
    # With the centers of pixels, rounding cannot reach a neighbor.
    return tf.raw_ops.ResizeNearestNeighbor(
        images=images, size=size * layer.size, half_pixel_centers=True
    )
