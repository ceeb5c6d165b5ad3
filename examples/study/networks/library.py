"""Networks of `keras.applications`, with random weights."""

import keras

from . import pieces


def keras_resnet50(classes=1000, input_shape=(224, 224, 3), weight_decay=0.0):
    """ResNet-50 of `keras.applications`.

    It has 25,583,592 trainable parameters, of which 25,502,912 are prunable,
    and 3,857,973,248 multiply-adds. The first convolution of a stage is
    strided.
    """
    return _decayed(
        keras.applications.ResNet50(
            weights=None,
            input_shape=input_shape,
            classes=classes,
            classifier_activation=None,
        ),
        weight_decay,
    )


def keras_vgg16(classes=1000, input_shape=(224, 224, 3), weight_decay=0.0):
    """VGG-16 of `keras.applications`, without batch normalization.

    It has 138,357,544 parameters, of which 138,344,128 are prunable, and
    15,470,264,320 multiply-adds. Images must have at least 32x32 pixels.
    """
    return _decayed(
        keras.applications.VGG16(
            weights=None,
            input_shape=input_shape,
            classes=classes,
            classifier_activation=None,
        ),
        weight_decay,
    )


def _decayed(model, weight_decay):
    """Rebuilds a model with a regularizer and new weights for each kernel.

    A layer uses its regularizer when it creates its kernel. Setting it later
    changes what is saved but not the training, so the layers are rebuilt with
    another config.
    """
    if not weight_decay:
        return model

    def decayed(layer):
        config = layer.get_config()
        for name in ("kernel_regularizer", "depthwise_regularizer"):
            if name in config:
                config[name] = pieces.regularizer(weight_decay)
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=decayed)
