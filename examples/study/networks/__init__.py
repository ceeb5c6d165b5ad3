"""The networks of the studies.

Convolutions have "same" padding. With strides it is on the other side than in
torch, which changes neither sizes nor counts. Each network is a function. Its
`classes` and `input_shape` depend on the data. Its `weight_decay` is coupled:
this fraction of a kernel is added to its gradient.
"""

from .convnet import convnet
from .hub import deeplab_v3
from .library import keras_resnet50
from .library import keras_vgg16
from .maxvit import maxvit_t
from .pspnet import pspnet
from .resnets import resnet8
from .resnets import resnet18
from .resnets import resnet20
from .resnets import resnet56
from .resnets import wide_resnet_28_10
from .t5 import t5
from .transformer import transformer
from .unet import unet
from .vgg import vgg16
