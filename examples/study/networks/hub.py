"""Randomly initialized networks of KerasHub."""

import keras

from . import pieces

_STRIDE = 32  # Pixels of the image per feature.


def deeplab_v3(
    classes=21,
    input_shape=(480, 480, 3),
    weight_decay=0.0,
    blocks=(3, 4, 6, 3),
    bottleneck=True,
):
    """DeepLabV3+ of Chen et al. (2018) on a ResNet, from KerasHub.

    With the defaults, it has 39,139,232 parameters, of which 39,082,432 are
    prunable, like KerasHub's preset on a ResNet-50. The ResNet is not dilated:
    its features are 1/32 of the size of the image.

    The model is a plain Functional one, since `DeepLabV3ImageSegmenter` has a
    custom `fit`. To load it from a file, import `keras_hub` first.

    Args:
        classes: Number of classes.
        input_shape: Shape of an image, with any height and width.
        weight_decay: Coupled. It is not saved.
        blocks: Residual blocks of each of the four stages.
        bottleneck: Whether a block is 1x1, 3x3, 1x1 rather than 3x3, 3x3.
    """
    height, across = input_shape[:2]
    more = ((0, -height % _STRIDE), (0, -across % _STRIDE))
    inputs = keras.Input(input_shape)
    x = keras.layers.ZeroPadding2D(more)(inputs)
    x = _backbone(blocks, bottleneck)(x)
    x = keras.layers.Conv2D(classes, 1, use_bias=False)(x)
    model = keras.Model(inputs, keras.layers.Cropping2D(more)(x))
    for variable in model.trainable_variables:
        if variable.name.endswith("kernel"):  # Layers take no regularizer.
            variable.regularizer = pieces.regularizer(weight_decay)
    return model


def _backbone(blocks, bottleneck):
    models = _keras_hub().models
    return models.DeepLabV3Backbone(
        image_encoder=models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64, 128, 256, 512],
            stackwise_num_blocks=list(blocks),
            stackwise_num_strides=[1, 2, 2, 2],
            block_type="bottleneck_block" if bottleneck else "basic_block",
        ),
        projection_filters=48,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[6, 12, 18],
    )


def _keras_hub():
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            "This network needs KerasHub: pip install 'keras-bimp[hub]' and, "
            "without TensorFlow Text, which it does not need, "
            "pip install --no-deps keras-hub"
        ) from error
    return keras_hub
