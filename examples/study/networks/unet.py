"""A U-Net, for segmentation."""

import keras

from . import pieces


def unet(classes=2, input_shape=(32, 32, 3), weight_decay=0.0, width=16):
    """A U-Net of Ronneberger et al. (2015), three levels deep.

    With the defaults, it has 482,754 parameters, of which 481,232 are prunable,
    and 36,257,792 multiply-adds.
    """
    convolution = pieces.convolution(weight_decay)
    regularizer = pieces.regularizer(weight_decay)

    def level(x, filters):
        for _ in range(2):
            x = pieces.relu(pieces.batch_norm(convolution(filters, 3)(x)))
        return x

    inputs = x = keras.Input(input_shape)
    before = []
    for times in (1, 2, 4):
        x = level(x, times * width)
        before.append(x)
        x = keras.layers.MaxPooling2D()(x)
    x = level(x, 8 * width)
    for times in (4, 2, 1):
        x = keras.layers.Conv2DTranspose(
            times * width,
            2,
            2,
            kernel_initializer="he_normal",
            kernel_regularizer=regularizer,
        )(x)
        x = keras.layers.Concatenate()([x, before.pop()])
        x = level(x, times * width)
    outputs = keras.layers.Conv2D(classes, 1, kernel_regularizer=regularizer)(x)
    return keras.Model(inputs, outputs)
