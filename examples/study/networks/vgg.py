"""VGG networks for images of 32x32 pixels."""

import keras

from . import pieces


def vgg16(classes=10, input_shape=(32, 32, 3), weight_decay=0.0, width=64):
    """VGG-16 for small images, with batch normalization.

    It has 14,724,042 parameters, of which 14,715,584 are prunable, and
    313,201,664 multiply-adds. The stages have 1, 2, 4, 8 and 8 times `width`
    filters.
    """
    convolution = pieces.convolution(weight_decay)
    inputs = x = keras.Input(input_shape)
    for factor, times in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(times):
            x = pieces.relu(
                pieces.batch_norm(convolution(factor * width, 3)(x))
            )
        x = keras.layers.MaxPooling2D()(x)
    return pieces.classifier(inputs, x, classes, weight_decay)
