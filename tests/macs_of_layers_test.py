"""Multiply-adds of each kind of layer against counts by hand."""

import keras
import pytest
from keras import layers
from macs_models import COUNTS
from macs_models import LOOK_UPS
from macs_models import models

from keras_bimp._src.metrics import layer_work as rules
from keras_bimp.metrics import count_macs


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_counts():
    counted = {name: count_macs(model) for name, model in models().items()}
    assert {name: macs.dense for name, macs in counted.items()} == {
        name: (COUNTS | LOOK_UPS)[name][2] for name in counted
    }
    for macs in counted.values():
        assert macs.nonzero == macs.dense
        assert macs.unknown == ()
        assert macs.dense == sum(x.dense for x in macs.layers.values())


def test_every_kind_that_is_counted_is_tested():
    tested = {
        type(layer)
        for model in models().values()
        for layer in model._flatten_layers()
    }
    assert {kind for kinds, _ in rules._RULES for kind in kinds} <= tested
    tested = {
        type(operation).__name__
        for model in models().values()
        for operation in model.operations
    }
    products = set(rules._PRODUCTS) - {"Dot", "Inner", "Outer", "Vdot"}
    assert products <= tested


FREE = {
    # Look-ups, activations, dropout, normalization, pooling, shapes.
    *("Activation", "ActivityRegularization", "Add", "AlphaDropout"),
    *("AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D"),
    *("AdaptiveAveragePooling3D", "AdaptiveMaxPooling1D"),
    *("AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D", "Average"),
    *("AveragePooling1D", "AveragePooling2D", "AveragePooling3D"),
    *("BatchNormalization", "CategoryEncoding", "Concatenate", "Cropping1D"),
    *("Cropping2D", "Cropping3D", "Discretization", "Dropout", "ELU"),
    *("Embedding", "Flatten", "GaussianDropout", "GaussianNoise"),
    *("GlobalAveragePooling1D", "GlobalAveragePooling2D"),
    *("GlobalAveragePooling3D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"),
    *("GlobalMaxPooling3D", "GroupNormalization", "HashedCrossing", "Hashing"),
    *("Identity", "InputLayer", "IntegerLookup", "LayerNormalization"),
    *("LeakyReLU", "Masking", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D"),
    *("Maximum", "Minimum", "Multiply", "Normalization", "PReLU", "Permute"),
    *("RMSNormalization", "ReLU", "RepeatVector", "Rescaling", "Reshape"),
    *("Softmax", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
    *("StringLookup", "Subtract", "TextVectorization", "UnitNormalization"),
    *("UpSampling1D", "UpSampling2D", "UpSampling3D", "ZeroPadding1D"),
    *("ZeroPadding2D", "ZeroPadding3D"),
    # Image preprocessing.
    *("AugMix", "AutoContrast", "CenterCrop", "CutMix", "Equalization"),
    *("ContrastLimitedAdaptiveHistogramEqualization", "MaxNumBoundingBoxes"),
    *("MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration"),
    *("RandomColorJitter", "RandomContrast", "RandomCrop", "RandomErasing"),
    *("RandomElasticTransform", "RandomFlip", "RandomGaussianBlur"),
    *("RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective"),
    *("RandomPosterization", "RandomRotation", "RandomSaturation"),
    *("RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom"),
    *("Resizing", "Solarization"),
    # The layers that they call are counted.
    *("Bidirectional", "Layer", "Pipeline", "SpectralNormalization"),
    *("StackedRNNCells", "TimeDistributed", "Wrapper"),
}


def test_every_layer_of_keras_is_counted_free_or_unknown():
    counted = tuple(kind for kinds, _ in rules._RULES for kind in kinds)
    exported = {
        kind
        for kind in vars(layers).values()
        if isinstance(kind, type) and issubclass(kind, layers.Layer)
    }
    assert len(exported) > 130
    for kind in exported:
        # If a new Keras layer multiplies, add it to the rules.
        found = (
            issubclass(kind, counted),
            issubclass(kind, rules._OPAQUE),
            kind.__name__ in FREE,
        )
        assert sum(found) == 1, kind


def test_operations_that_are_listed_exist():
    def kinds(parent):
        for kind in parent.__subclasses__():
            yield kind
            yield from kinds(kind)

    exist = {
        kind.__name__
        for kind in kinds(keras.Operation)
        if kind.__module__.startswith("keras.src.ops")
    }
    assert set(rules._PRODUCTS) <= exist
    assert set(rules._UNKNOWN_OPERATIONS) <= exist


# Whole models.
