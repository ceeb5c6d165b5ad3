"""Building blocks of the networks."""

import functools

import keras


def convolution(weight_decay, use_bias=False):
    return functools.partial(
        keras.layers.Conv2D,
        padding="same",
        use_bias=use_bias,
        kernel_initializer="he_normal",
        kernel_regularizer=regularizer(weight_decay),
    )


def projection(x, convolution, filters, strides):
    """A strided 1x1 convolution.

    With few channels, the pixels are selected before it. oneDNN, which
    TensorFlow uses on CPUs, writes out of bounds in the gradient of the kernel
    if there are fewer channels than numbers in a vector (oneDNN, issue 6035).
    """
    if strides > 1 and x.shape[-1] < 16:
        x, strides = keras.layers.MaxPooling2D(1, strides)(x), 1
    return convolution(filters, 1, strides)(x)


def classifier(inputs, x, classes, weight_decay):
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(
        classes, kernel_regularizer=regularizer(weight_decay)
    )(x)
    return keras.Model(inputs, outputs)


def batch_norm(x):
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def relu(x):
    return keras.layers.ReLU()(x)


def regularizer(weight_decay):
    """Coupled weight decay: this fraction of a weight is in its gradient."""
    return keras.regularizers.L2(weight_decay / 2) if weight_decay else None
