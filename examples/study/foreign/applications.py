"""The smallest member of each family of keras.applications."""

import functools

import keras

from .network import CLASSES
from .network import Network
from .network import images

# Sizes of the images: about the smallest that a family allows.
_MEMBERS = {
    "ConvNeXtTiny": {"side": 32},
    "DenseNet121": {"side": 32},
    "EfficientNetB0": {"side": 32},
    "EfficientNetV2B0": {"side": 32},
    "InceptionResNetV2": {"side": 75},
    "InceptionV3": {"side": 75},
    "MobileNet": {"side": 32, "alpha": 0.25},
    "MobileNetV2": {"side": 32, "alpha": 0.35},
    "MobileNetV3Small": {"side": 32, "alpha": 0.75},
    "NASNetMobile": {"side": 32},
    "ResNet50": {"side": 32},
    "ResNet50V2": {"side": 32},
    "VGG16": {"side": 32},
    "Xception": {"side": 71},
}


def _build(name, side, **kwargs):
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(side, side, 3),
        classes=CLASSES,
        **kwargs,
    )
    return Network(model, *images(side))


NETWORKS = {
    name: functools.partial(_build, name, **given)
    for name, given in _MEMBERS.items()
}
