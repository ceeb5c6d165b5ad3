"""The networks of the studies, for images of 32x32 pixels.

Convolutions pad "same": where they stride, on the other side than torch does,
which changes neither a size nor a count.
"""

import functools

import keras


def resnet56(classes=10, weight_decay=0.0):
    """ResNet-56 of He et al. (2016), with shortcuts that have no parameters.

    853,018 parameters of which 848,944 prunable; 125,485,696 multiply-adds.
    """

    def shortcut(x, filters):
        more = (filters - x.shape[-1]) // 2
        x = keras.layers.MaxPooling2D(1, 2)(x)  # Every second pixel.
        return keras.ops.pad(x, [(0, 0), (0, 0), (0, 0), (more, more)])

    return _resnet((16, 32, 64), 9, shortcut, classes, weight_decay)


def resnet18(classes=10, weight_decay=0.0):
    """ResNet-18 as it is for small images: it begins with a 3x3 convolution.

    11,173,962 parameters of which 11,164,352 prunable; 555,422,720
    multiply-adds.
    """

    def shortcut(x, filters):
        return _batch_norm(_convolution(weight_decay)(filters, 1, 2)(x))

    return _resnet((64, 128, 256, 512), 2, shortcut, classes, weight_decay)


def wide_resnet_28_10(classes=100, weight_decay=0.0):
    """WRN-28-10 of Zagoruyko and Komodakis (2016), all convolutions biased.

    With 100 classes 36,546,980 parameters of which 36,518,832 prunable;
    5,951,175,168 multiply-adds: the second convolution of a block strides.
    """
    convolution = _convolution(weight_decay, use_bias=True)

    def block(x, filters, strides):
        before = x
        if x.shape[-1] != filters:
            before = convolution(filters, 1, strides)(x)
        x = convolution(filters, 3)(_relu(_batch_norm(x)))
        x = convolution(filters, 3, strides)(_relu(_batch_norm(x)))
        return keras.layers.Add()([x, before])

    inputs = keras.Input((32, 32, 3))
    x = convolution(16, 3)(inputs)
    for filters in (160, 320, 640):
        for i in range(4):
            x = block(x, filters, 2 if i == 0 and filters > 160 else 1)
    return _classifier(inputs, _relu(_batch_norm(x)), classes, weight_decay)


def vgg16(classes=10, weight_decay=0.0):
    """VGG-16 as it is for small images, with batch normalisation.

    14,724,042 parameters of which 14,715,584 prunable; 313,201,664
    multiply-adds.
    """
    convolution = _convolution(weight_decay)
    inputs = x = keras.Input((32, 32, 3))
    for filters, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(times):
            x = _relu(_batch_norm(convolution(filters, 3)(x)))
        x = keras.layers.MaxPooling2D()(x)
    return _classifier(inputs, x, classes, weight_decay)


def unet(classes=2, width=16, weight_decay=0.0):
    """A U-Net of Ronneberger et al. (2015), three levels deep.

    With the defaults 482,754 parameters of which 481,232 prunable; 36,257,792
    multiply-adds.
    """
    convolution = _convolution(weight_decay)

    def level(x, filters):
        for _ in range(2):
            x = _relu(_batch_norm(convolution(filters, 3)(x)))
        return x

    inputs = x = keras.Input((32, 32, 3))
    before = []
    for times in (1, 2, 4):
        x = level(x, times * width)
        before.append(x)
        x = keras.layers.MaxPooling2D()(x)
    x = level(x, 8 * width)
    for times in (4, 2, 1):
        x = keras.layers.Conv2DTranspose(
            times * width, 2, 2, kernel_initializer="he_normal"
        )(x)
        x = keras.layers.Concatenate()([x, before.pop()])
        x = level(x, times * width)
    return keras.Model(inputs, keras.layers.Conv2D(classes, 1)(x))


def _resnet(widths, blocks, shortcut, classes, weight_decay):
    convolution = _convolution(weight_decay)

    def block(x, filters):
        before, strides = x, 1
        if x.shape[-1] != filters:
            before, strides = shortcut(x, filters), 2
        x = _relu(_batch_norm(convolution(filters, 3, strides)(x)))
        x = _batch_norm(convolution(filters, 3)(x))
        return _relu(keras.layers.Add()([x, before]))

    inputs = keras.Input((32, 32, 3))
    x = _relu(_batch_norm(convolution(widths[0], 3)(inputs)))
    for filters in widths:
        for _ in range(blocks):
            x = block(x, filters)
    return _classifier(inputs, x, classes, weight_decay)


def _convolution(weight_decay, use_bias=False):
    return functools.partial(
        keras.layers.Conv2D,
        padding="same",
        use_bias=use_bias,
        kernel_initializer="he_normal",
        kernel_regularizer=_regularizer(weight_decay),
    )


def _classifier(inputs, x, classes, weight_decay):
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(
        classes, kernel_regularizer=_regularizer(weight_decay)
    )(x)
    return keras.Model(inputs, outputs)


def _batch_norm(x):
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def _relu(x):
    return keras.layers.ReLU()(x)


def _regularizer(weight_decay):
    """Coupled: as much of a weight is added to its gradient."""
    return keras.regularizers.L2(weight_decay / 2) if weight_decay else None
