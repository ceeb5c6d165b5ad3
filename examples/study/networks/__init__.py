"""The networks of the studies.

Convolutions pad "same": where they stride, on the other side than torch does,
which changes neither a size nor a count. Every network is a function, whose
`classes` and `input_shape` follow from the data, and whose `weight_decay` is
coupled: as much of a kernel is added to its gradient.
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
