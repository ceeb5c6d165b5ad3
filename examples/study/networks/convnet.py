"""A plain convolutional network, small enough for studies on a CPU."""

import keras

from . import pieces


def convnet(
    classes=10,
    input_shape=(32, 32, 3),
    weight_decay=0.0,
    filters=(16, 32, 64, 64),
):
    """Strided convolutions, except the last, with batch normalization.

    With the defaults, it has 61,338 parameters, of which 60,976 are prunable,
    and 1,290,880 multiply-adds. An epoch of 10,000 images takes 3 seconds on
    one core.
    """
    convolution = pieces.convolution(weight_decay)
    inputs = x = keras.Input(input_shape)
    for i, count in enumerate(filters):
        strides = 1 if i == len(filters) - 1 else 2
        x = pieces.relu(pieces.batch_norm(convolution(count, 3, strides)(x)))
    return pieces.classifier(inputs, x, classes, weight_decay)
