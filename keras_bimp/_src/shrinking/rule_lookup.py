"""Looks up the rule of an operation."""

import keras
from keras import layers

from keras_bimp._src.keras_internals.functional_graphs import is_of_kerass_ops
from keras_bimp._src.shrinking import attention
from keras_bimp._src.shrinking import convolutions
from keras_bimp._src.shrinking import depthwise
from keras_bimp._src.shrinking import elementwise as passing
from keras_bimp._src.shrinking import merging
from keras_bimp._src.shrinking import normalizing
from keras_bimp._src.shrinking import recurrent
from keras_bimp._src.shrinking.channel_rules import Barrier
from keras_bimp._src.shrinking.channel_rules import NotFollowedError
from keras_bimp._src.shrinking.channel_rules import Rule
from keras_bimp._src.shrinking.channels import Classes


def rule_of(operation: keras.Operation, classes: Classes) -> Rule:
    """Returns the rule of an operation; a `Barrier` if there is none."""
    kind = type(operation)
    rule = _LAYERS.get(kind)
    if rule is None and is_of_kerass_ops(kind):
        rule = _OPERATIONS.get(kind.__name__)
    if rule is None:
        what = f"{kind.__name__} is not followed"
        return Barrier(operation, classes, what)
    try:
        return rule(operation, classes)
    except NotFollowedError as error:
        return Barrier(operation, classes, str(error))


_RULES = {
    attention.GroupedQueryAttention: (layers.GroupQueryAttention,),
    attention.MultiHeadAttention: (layers.MultiHeadAttention,),
    convolutions.Convolution: (layers.Conv1D, layers.Conv2D, layers.Conv3D),
    convolutions.Transposed: (
        layers.Conv1DTranspose,
        layers.Conv2DTranspose,
        layers.Conv3DTranspose,
    ),
    convolutions.Separable: (layers.SeparableConv1D, layers.SeparableConv2D),
    convolutions.Dense: (layers.Dense,),
    convolutions.EinsumDense: (layers.EinsumDense,),
    depthwise.Depthwise: (layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    normalizing.BatchNormalization: (layers.BatchNormalization,),
    normalizing.GroupNormalization: (layers.GroupNormalization,),
    normalizing.PReLU: (layers.PReLU,),
    passing.Activation: (layers.Activation,),
    passing.Elementwise: (layers.ELU, layers.LeakyReLU, layers.ReLU),
    passing.Flatten: (layers.Flatten,),
    passing.Reshape: (layers.Reshape,),
    passing.ZeroPadding: (
        layers.ZeroPadding1D,
        layers.ZeroPadding2D,
        layers.ZeroPadding3D,
    ),
    passing.Passing: (
        layers.ActivityRegularization,
        layers.AlphaDropout,
        layers.AveragePooling1D,
        layers.AveragePooling2D,
        layers.AveragePooling3D,
        layers.Cropping1D,
        layers.Cropping2D,
        layers.Cropping3D,
        layers.Dropout,
        layers.GaussianDropout,
        layers.GaussianNoise,
        layers.GlobalAveragePooling1D,
        layers.GlobalAveragePooling2D,
        layers.GlobalAveragePooling3D,
        layers.GlobalMaxPooling1D,
        layers.GlobalMaxPooling2D,
        layers.GlobalMaxPooling3D,
        layers.Identity,
        layers.MaxPooling1D,
        layers.MaxPooling2D,
        layers.MaxPooling3D,
        layers.RepeatVector,
        layers.SpatialDropout1D,
        layers.SpatialDropout2D,
        layers.SpatialDropout3D,
        layers.UpSampling1D,
        layers.UpSampling2D,
        layers.UpSampling3D,
    ),
    recurrent.Bidirectional: (layers.Bidirectional,),
    recurrent.Recurrent: (layers.GRU, layers.LSTM, layers.SimpleRNN),
    merging.Concatenate: (layers.Concatenate,),
    merging.Multiply: (layers.Multiply,),
    merging.Merge: (
        layers.Add,
        layers.Average,
        layers.Maximum,
        layers.Minimum,
        layers.Subtract,
    ),
}
_LAYERS = {kind: rule for rule, kinds in _RULES.items() for kind in kinds}

# Operations of `keras.ops` have no public classes, only names.
_OPERATIONS = {
    **dict.fromkeys(
        (
            "Abs",
            "Celu",
            "Elu",
            "Exp",
            "Gelu",
            "HardShrink",
            "HardSigmoid",
            "HardSilu",
            "HardTanh",
            "LeakyRelu",
            "LogSigmoid",
            "Negative",
            "Relu",
            "Relu6",
            "Selu",
            "Sigmoid",
            "Silu",
            "SoftShrink",
            "Softplus",
            "Softsign",
            "SparsePlus",
            "Square",
            "Squareplus",
            "Tanh",
            "TanhShrink",
            "Threshold",
        ),
        passing.Elementwise,
    ),
    **dict.fromkeys(
        ("Add", "Maximum", "Minimum", "Subtract", "TrueDivide"),
        merging.Arithmetic,
    ),
    "Concatenate": merging.Concatenate,
    "Max": passing.Reduction,
    "Mean": passing.Reduction,
    "Multiply": merging.Product,
    "Pad": passing.Pad,
}
