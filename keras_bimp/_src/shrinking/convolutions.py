"""Dense layers, and convolutions of all kinds except depthwise."""

import numpy as np

from keras_bimp._src.backends import as_array
from keras_bimp._src.selection import Part
from keras_bimp._src.shrinking.channel_rules import NotFollowedError
from keras_bimp._src.shrinking.channel_rules import Smaller
from keras_bimp._src.shrinking.linear import Linear


class Dense(Linear):
    """A dense layer on the last axis."""

    size_argument = "units"
    unit_name = "units"
    pads = False

    def as_taps(self, kernel):
        return kernel[None]

    def as_kernel(self, taps):
        return taps[0]


class EinsumDense(Dense):
    """An einsum that is a dense layer on the last axis."""

    def __init__(self, operation, classes):
        inputs, _, rest = operation.equation.replace(" ", "").partition(",")
        kernel, _, output = rest.partition("->")
        if (
            len(kernel) != 2
            or inputs[:-1] != output[:-1]
            or kernel not in (inputs[-1] + output[-1], output[-1] + inputs[-1])
            or operation.bias_axes not in (None, output[-1])
        ):
            raise NotFollowedError(
                f"its equation is '{operation.equation}', and only dense "
                "layers such as 'abc,cd->abd' are followed"
            )
        self.turned = kernel[0] == output[-1]
        self.axis = output[-1]
        super().__init__(operation, classes)

    def as_taps(self, kernel):
        return kernel.T[None] if self.turned else kernel[None]

    def as_kernel(self, taps):
        return taps[0].T if self.turned else taps[0]

    def along(self, matrix, rank):
        return matrix.T if self.turned else matrix

    def sliced(self, taps, bias, stay, out):
        made = super().sliced(taps, bias, stay, out)
        shape = list(self.operation.partial_output_shape)
        shape[-1] = int(out.sum())
        config = {
            "output_shape": shape,
            "bias_axes": None if bias is None else self.axis,
        }
        return Smaller(config, made.weights)


class Convolution(Linear):
    """A convolution, grouped or not."""

    @property
    def pads(self):
        return self.operation.padding != "valid" and len(self.taps) > 1


class Transposed(Linear):
    """A transposed convolution, whose kernel has the outputs first."""

    pads = True  # Borders get fewer taps, and strides use different ones.

    def as_taps(self, kernel):
        return super().as_taps(np.swapaxes(kernel, -1, -2))

    def as_kernel(self, taps):
        return np.swapaxes(super().as_kernel(taps), -1, -2)

    def along(self, matrix, rank):
        return super().along(matrix.T, rank)


class Separable(Convolution):
    """A depthwise convolution followed by a pointwise one."""

    def __init__(self, operation, classes):
        self._depthwise = as_array(operation.depthwise_kernel)
        super().__init__(operation, classes)

    def kernel(self):
        # The product of both kernels.
        depthwise = self._depthwise.astype(float)
        pointwise = as_array(self.operation.pointwise_kernel).astype(float)
        inputs, multiplier = depthwise.shape[-2:]
        return np.einsum(
            "tim,imo->tio",
            depthwise.reshape(-1, inputs, multiplier),
            pointwise.reshape(inputs, multiplier, -1),
        )

    def demand(self, kept):
        # A constant cannot replace others: each has different taps.
        (x,) = self.calls[0].inputs
        grew = super().demand(kept)
        if self.pads:
            grew |= kept.keep(x, (self._gone(kept) != 0) & self._read)
        return grew

    def sliced(self, taps, bias, stay, out):
        multiplier = self._depthwise.shape[-1]
        pointwise = as_array(self.operation.pointwise_kernel)
        weights = {
            "depthwise_kernel": self._depthwise[..., stay, :],
            "pointwise_kernel": pointwise[..., stay.repeat(multiplier), :][
                ..., out
            ],
        }
        if bias is not None:
            weights["bias"] = bias[out]
        config = {"filters": int(out.sum()), "use_bias": bias is not None}
        return Smaller(config, weights)

    def filters(self):
        (x,) = self.calls[0].inputs
        numbers = x.numbers.repeat(self._depthwise.shape[-1])
        return [
            (self.operation.depthwise_kernel, numbers),
            (self.operation.pointwise_kernel, self.calls[0].output.numbers),
        ]

    def parts(self):
        (x,), out = self.calls[0].inputs, self.calls[0].output
        name, rank = self.operation.name, self._depthwise.ndim
        rows = x.numbers.repeat(self._depthwise.shape[-1])
        depthwise = self.operation.depthwise_kernel
        pointwise = self.operation.pointwise_kernel
        return [
            (kernel, Part(self.along(numbers, rank), computes, name, "filters"))
            for kernel, numbers, computes in (
                (depthwise, x.numbers[:, None], False),
                (pointwise, out.numbers[None], True),
                (pointwise, rows[:, None], False),
            )
        ]
