"""The pyramid scene parsing network, for segmentation."""

import keras

from . import pieces

_CELLS = (1, 2, 3, 6)  # Per side of the pooled grids.


def pspnet(
    classes=19,
    input_shape=(713, 713, 3),
    weight_decay=0.0,
    width=64,
    blocks=(3, 4, 6, 3),
    bottleneck=True,
    stride=8,
):
    """PSPNet of Zhao et al. (2017), without its auxiliary loss.

    With the defaults, its features are from a ResNet-50, and it has 46,591,571
    parameters, of which 46,533,312 are prunable. It begins with one 7x7
    convolution.

    Args:
        classes: Number of classes.
        input_shape: Shape of an image, with any height and width.
        weight_decay: Coupled.
        width: Filters of the first convolution; the four stages have 1, 2, 4
            and 8 times as many, four times that after a bottleneck.
        blocks: Residual blocks of each stage.
        bottleneck: Whether a block is 1x1, 3x3, 1x1 rather than 3x3, 3x3.
        stride: Pixels of the image per feature: 8, or 4 for small images,
            without max pooling.
    """
    if stride not in (4, 8):
        raise ValueError(f"`stride` must be 4 or 8. Received: stride={stride}")
    convolution = pieces.convolution(weight_decay)
    block = _bottleneck if bottleneck else _basic_block
    inputs = keras.Input(input_shape)
    x = pieces.relu(pieces.batch_norm(convolution(width, 7, 2)(inputs)))
    if stride == 8:
        x = keras.layers.MaxPooling2D(3, 2, padding="same")(x)
    for stage, count in enumerate(blocks):
        for i in range(count):
            x = block(
                x,
                convolution,
                filters=width * 2**stage,
                strides=2 if stage == 1 and i == 0 else 1,
                dilation=(1, 1, 2, 4)[stage],
            )
    filters = x.shape[-1] // 4
    x = _pyramid(x, convolution, filters)
    x = pieces.relu(pieces.batch_norm(convolution(filters, 3)(x)))
    x = convolution(classes, 1, use_bias=True)(x)
    return keras.Model(inputs, keras.layers.Resizing(*input_shape[:2])(x))


def _pyramid(x, convolution, filters):
    """Concatenates features and their means over parts of the image."""
    levels = [x]
    for cells in _CELLS:
        level = _grid(x, cells)
        level = pieces.relu(pieces.batch_norm(convolution(filters, 1)(level)))
        levels.append(keras.layers.Resizing(*x.shape[1:3])(level))
    return keras.layers.Concatenate()(levels)


def _grid(x, cells):
    """Averages over a grid with `cells` per side, overlapping if needed."""
    sides = x.shape[1:3]
    strides = [max(side // cells, 1) for side in sides]
    size = [
        max(side - (cells - 1) * stride, 1)
        for side, stride in zip(sides, strides, strict=True)
    ]
    return keras.layers.AveragePooling2D(size, strides)(x)


def _basic_block(x, convolution, filters, strides, dilation):
    before = _shortcut(x, convolution, filters, strides)
    x = convolution(filters, 3, strides, dilation_rate=dilation)(x)
    x = pieces.relu(pieces.batch_norm(x))
    x = convolution(filters, 3, dilation_rate=dilation)(x)
    return _sum(x, before)


def _bottleneck(x, convolution, filters, strides, dilation):
    before = _shortcut(x, convolution, 4 * filters, strides)
    x = pieces.relu(pieces.batch_norm(convolution(filters, 1)(x)))
    x = convolution(filters, 3, strides, dilation_rate=dilation)(x)
    x = pieces.relu(pieces.batch_norm(x))
    return _sum(convolution(4 * filters, 1)(x), before)


def _shortcut(x, convolution, filters, strides):
    if x.shape[-1] == filters:
        return x
    return pieces.batch_norm(
        pieces.projection(x, convolution, filters, strides)
    )


def _sum(x, before):
    return pieces.relu(keras.layers.Add()([pieces.batch_norm(x), before]))
