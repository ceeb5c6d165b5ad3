"""Which float kernels a layer computes with that is quantized or has LoRA.

Its variables hold codes, two of them in a byte in places, where zero may be
any number; or the kernel that LoRA adds to.
"""

import dataclasses
import math
from collections.abc import Callable

import keras
from keras import ops

# Layers that are quantized in these modes keep their kernel elsewhere.
_CALIBRATED = {"gptq": "is_gptq_calibrated", "awq": "is_awq_calibrated"}


@dataclasses.dataclass(frozen=True)
class FloatKernel:
    """A kernel or table as a layer computes with it.

    Args:
        role: "kernel", "embeddings" or "reverse_embeddings".
        variable: The variable that holds it, or its codes.
        shape: Its shape.
        compute: Callable -> the tensor.
    """

    role: str
    variable: keras.Variable
    shape: tuple[int, ...]
    compute: Callable

    @property
    def size(self) -> int:
        """How many entries it has."""
        return math.prod(self.shape)


def is_quantized(layer: keras.Layer) -> bool:
    """Whether Keras has quantized the weights of a layer itself."""
    return layer.quantization_mode is not None and getattr(
        layer, "_is_quantized", False
    )


def has_lora(layer: keras.Layer) -> bool:
    """Whether LoRA adds to the kernel of a layer."""
    return bool(getattr(layer, "lora_enabled", False))


def float_kernels(layer: keras.Layer) -> list[FloatKernel]:
    """The kernels and tables that a layer computes with.

    Args:
        layer: A built layer. Only of one that is quantized or has LoRA they
            are told.
    """
    if not (is_quantized(layer) or has_lora(layer)):
        return []
    found = []
    for role, kind in (("kernel", _Kernel), ("embeddings", _Embeddings)):
        if hasattr(layer, f"_{role}") or kind.elsewhere(layer) is not None:
            found.append(kind(layer).told(role))
    if hasattr(layer, "reverse_embeddings"):
        found.append(_ReverseEmbeddings(layer).told("reverse_embeddings"))
    return found


def variables_beside(layer: keras.Layer) -> list[keras.Variable]:
    """What quantization and LoRA gave a layer beside its kernel and bias."""
    kernels = float_kernels(layer)
    if not kernels:
        return []
    own = [*layer._trainable_variables, *layer._non_trainable_variables]
    known = {id(kernel.variable) for kernel in kernels}
    return [v for v in own if id(v) not in known and v.name != "bias"]


class _Kernel:
    """The kernel of a `Dense`, an `EinsumDense` or a convolution."""

    def __init__(self, layer):
        self.layer = layer
        self.mode = layer.quantization_mode

    @staticmethod
    def elsewhere(layer):
        """The variable of a kernel that is not where it was."""
        calibrated = _CALIBRATED.get(layer.quantization_mode, "")
        if getattr(layer, calibrated, False):
            return layer.quantized_kernel
        return None

    def told(self, role):
        variable = self.elsewhere(self.layer)
        if variable is None:
            variable = self.stored()
        return FloatKernel(role, variable, self.shape(), self.compute)

    def stored(self):
        return self.layer._kernel

    def shape(self):
        layer = self.layer
        packed = self.mode == "int4" or self.elsewhere(layer) is not None
        if not packed:
            return tuple(self.stored().shape)
        if hasattr(layer, "original_kernel_shape"):
            return tuple(layer.original_kernel_shape)
        if hasattr(layer, "_int4_pack_axis"):  # Of Keras 3.13.
            shape = list(self.stored().shape)
            length = layer._orig_length_along_pack_axis
            shape[layer._int4_pack_axis] = length
            return tuple(shape)
        if self.mode == "int4":
            return layer._orig_input_dim, layer.units
        return tuple(layer.kernel_shape)

    def compute(self):
        value = ops.cast(self.without_lora(), self.layer.compute_dtype)
        if has_lora(self.layer):
            value = ops.cast(
                ops.add(value, self.lora()), self.layer.compute_dtype
            )
        return value

    def lora(self):
        layer = self.layer
        product = ops.matmul(layer.lora_kernel_a, layer.lora_kernel_b)
        return (layer.lora_alpha / layer.lora_rank) * product

    def without_lora(self):
        if self.elsewhere(self.layer) is not None:
            return self.of_groups_of_outputs()
        of_mode = {
            "int8": self.of_bytes,
            "int4": self.of_halves,
            "float8": self.of_float8,
        }
        return of_mode.get(self.mode, lambda: self.stored().value)()

    def of_bytes(self):
        return self.scaled(self.stored())

    def scaled(self, codes):
        layer, scale = self.layer, ops.convert_to_tensor(self.scale())
        if hasattr(layer, "_adjust_scale_for_dequant"):
            scale = layer._adjust_scale_for_dequant(scale)
        return ops.divide(ops.cast(codes, layer.compute_dtype), scale)

    def of_halves(self):
        layer = self.layer
        if not hasattr(layer, "_int4_block_size"):  # Of Keras 3.13.
            axis = self.packed_axis()
            length = self.shape()[axis]
            return self.scaled(
                keras.quantizers.unpack_int4(self.stored(), length, axis=axis)
            )
        columns = math.prod(self.shape()) // self.stored().shape[0]
        codes = keras.quantizers.unpack_int4(self.stored(), columns, axis=-1)
        codes = ops.cast(codes, layer.compute_dtype)
        value = self.of_codes(codes)
        return ops.reshape(value, self.shape())

    def packed_axis(self):
        return getattr(self.layer, "_int4_pack_axis", 0)

    def of_codes(self, codes):
        layer = self.layer
        if not hasattr(layer, "g_idx"):
            return ops.divide(codes, layer.kernel_scale)
        return _of_groups(
            codes,
            layer.kernel_scale,
            layer.kernel_zero,
            layer.g_idx,
            group_axis=0,
        )

    def of_float8(self):
        layer = self.layer
        return keras.quantizers.quantize_and_dequantize(
            ops.cast(self.stored(), layer.compute_dtype),
            ops.convert_to_tensor(layer.kernel_scale),
            "float8_e4m3fn",
            layer.compute_dtype,
        )

    def of_groups_of_outputs(self):
        """Codes of which an output is a row, as GPTQ and AWQ leave them."""
        layer, codes = self.layer, self.layer.quantized_kernel
        outputs = layer.kernel_scale.shape[0]
        if codes.shape[0] != outputs:  # Two in a byte.
            codes = keras.quantizers.unpack_int4(
                codes, orig_len=outputs, axis=0, dtype="uint8"
            )
        value = ops.transpose(
            _of_groups(
                codes, layer.kernel_scale, layer.kernel_zero, layer.g_idx
            )
        )
        if self.mode == "awq":
            value = ops.divide(value, ops.expand_dims(layer.awq_scales, -1))
        return ops.reshape(value, self.shape())

    def scale(self):
        return self.layer.kernel_scale


class _Embeddings(_Kernel):
    """The table of an `Embedding`, with a scale for each row."""

    @staticmethod
    def elsewhere(layer):
        return None

    def stored(self):
        return self.layer._embeddings

    def shape(self):
        return self.layer.input_dim, self.layer.output_dim

    def lora(self):
        layer = self.layer
        product = ops.matmul(layer.lora_embeddings_a, layer.lora_embeddings_b)
        return (layer.lora_alpha / layer.lora_rank) * product

    def scale(self):
        return ops.expand_dims(self.layer.embeddings_scale, -1)

    def packed_axis(self):
        return 1

    def of_codes(self, codes):
        layer = self.layer
        if not hasattr(layer, "g_idx"):
            return ops.divide(codes, self.scale())
        return _of_groups(
            codes, layer.embeddings_scale, layer.embeddings_zero, layer.g_idx
        )


class _ReverseEmbeddings(_Kernel):
    """The other table of a `ReversibleEmbedding`, with a scale per column."""

    @staticmethod
    def elsewhere(layer):
        return None

    def stored(self):
        return self.layer.reverse_embeddings

    def shape(self):
        return self.layer.output_dim, self.layer.input_dim

    def compute(self):
        return ops.cast(self.without_lora(), self.layer.compute_dtype)

    def scale(self):
        return self.layer.reverse_embeddings_scale

    def of_halves(self):
        layer = self.layer
        codes = keras.quantizers.unpack_int4(
            self.stored(), layer.output_dim, axis=0
        )
        codes = ops.cast(codes, layer.compute_dtype)
        if not hasattr(layer, "g_idx"):
            return ops.divide(codes, self.scale())
        return _of_groups(
            codes,
            self.scale(),
            layer.reverse_embeddings_zero,
            layer.g_idx,
            group_axis=0,
        )


def _of_groups(codes, scale, zero, groups, group_axis=-1):
    """Codes less the zero of their group, times its scale."""
    groups = ops.cast(groups, "int32")
    scale = ops.take(scale, groups, axis=group_axis)
    zero = ops.cast(ops.take(zero, groups, axis=group_axis), scale.dtype)
    return ops.multiply(ops.subtract(ops.cast(codes, scale.dtype), zero), scale)
