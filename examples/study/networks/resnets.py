"""Residual networks for images of 32x32 pixels."""

import keras

from . import pieces


def resnet8(
    classes=10,
    input_shape=(32, 32, 3),
    weight_decay=0.0,
    width=16,
    strides=1,
):
    """The smallest of these residual networks, with one block per stage.

    It has 75,290 parameters. For studies on a CPU, the first convolution may
    have `strides` of 2.
    """
    return _cifar_resnet(width, 1, classes, input_shape, weight_decay, strides)


def resnet20(classes=10, input_shape=(32, 32, 3), weight_decay=0.0, width=16):
    """ResNet-20 of He et al. (2016): ResNet-56 with a third of its blocks.

    It has 269,722 parameters, of which 268,336 are prunable, and 40,551,040
    multiply-adds.
    """
    return _cifar_resnet(width, 3, classes, input_shape, weight_decay)


def resnet56(classes=10, input_shape=(32, 32, 3), weight_decay=0.0, width=16):
    """ResNet-56 of He et al. (2016), with parameter-free shortcuts.

    It has 853,018 parameters, of which 848,944 are prunable, and 125,485,696
    multiply-adds. The stages have 1, 2 and 4 times `width` filters.
    """
    return _cifar_resnet(width, 9, classes, input_shape, weight_decay)


def resnet18(classes=10, input_shape=(32, 32, 3), weight_decay=0.0, width=64):
    """ResNet-18 for small images, which begins with a 3x3 convolution.

    It has 11,173,962 parameters, of which 11,164,352 are prunable, and
    555,422,720 multiply-adds. The stages have 1, 2, 4 and 8 times `width`
    filters.
    """

    def shortcut(x, filters):
        return pieces.batch_norm(
            pieces.projection(x, pieces.convolution(weight_decay), filters, 2)
        )

    widths = (width, 2 * width, 4 * width, 8 * width)
    return _resnet(widths, 2, shortcut, classes, input_shape, weight_decay)


def wide_resnet_28_10(
    classes=100, input_shape=(32, 32, 3), weight_decay=0.0, width=160
):
    """WRN-28-10 of Zagoruyko and Komodakis (2016), with biases.

    With 100 classes, it has 36,546,980 parameters, of which 36,518,832 are
    prunable, and 5,951,175,168 multiply-adds. The second convolution of a block
    is strided. The stages have 1, 2 and 4 times `width` filters.
    """
    convolution = pieces.convolution(weight_decay, use_bias=True)

    def block(x, filters, strides):
        before = x
        if x.shape[-1] != filters:
            before = pieces.projection(x, convolution, filters, strides)
        x = convolution(filters, 3)(pieces.relu(pieces.batch_norm(x)))
        x = convolution(filters, 3, strides)(pieces.relu(pieces.batch_norm(x)))
        return keras.layers.Add()([x, before])

    inputs = keras.Input(input_shape)
    x = convolution(16, 3)(inputs)
    for filters in (width, 2 * width, 4 * width):
        for i in range(4):
            x = block(x, filters, 2 if i == 0 and filters > width else 1)
    return pieces.classifier(
        inputs, pieces.relu(pieces.batch_norm(x)), classes, weight_decay
    )


def _cifar_resnet(width, blocks, classes, input_shape, weight_decay, strides=1):
    def shortcut(x, filters):
        more = (filters - x.shape[-1]) // 2
        x = keras.layers.MaxPooling2D(1, 2)(x)  # Every second pixel.
        return keras.ops.pad(x, [(0, 0), (0, 0), (0, 0), (more, more)])

    widths = (width, 2 * width, 4 * width)
    return _resnet(
        widths, blocks, shortcut, classes, input_shape, weight_decay, strides
    )


def _resnet(
    widths, blocks, shortcut, classes, input_shape, weight_decay, strides=1
):
    convolution = pieces.convolution(weight_decay)

    def block(x, filters):
        before, strides = x, 1
        if x.shape[-1] != filters:
            before, strides = shortcut(x, filters), 2
        x = pieces.relu(pieces.batch_norm(convolution(filters, 3, strides)(x)))
        x = pieces.batch_norm(convolution(filters, 3)(x))
        return pieces.relu(keras.layers.Add()([x, before]))

    inputs = keras.Input(input_shape)
    x = convolution(widths[0], 3, strides)(inputs)
    x = pieces.relu(pieces.batch_norm(x))
    for filters in widths:
        for _ in range(blocks):
            x = block(x, filters)
    return pieces.classifier(inputs, x, classes, weight_decay)
