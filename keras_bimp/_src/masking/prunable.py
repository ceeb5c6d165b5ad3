"""Find the prunable variables of a layer or model."""

import collections
import math
import re
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass

import keras

from keras_bimp._src.keras_internals.layers import layers_of
from keras_bimp._src.keras_internals.quantization import FloatKernel
from keras_bimp._src.keras_internals.quantization import float_kernels
from keras_bimp._src.keras_internals.quantization import has_lora
from keras_bimp._src.keras_internals.quantization import is_quantized
from keras_bimp._src.kernel_layout import Layout

# The reason `find_prunable` gives for kernels that are not trainable.
FROZEN = "frozen"


@dataclass(frozen=True)
class Kernel:
    """A prunable variable and the layer that owns it.

    Args:
        variable: The `keras.Variable`.
        layer: The innermost layer that holds it.
    """

    variable: keras.Variable
    layer: keras.Layer

    @property
    def path(self) -> str:
        return self.variable.path

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel, unpacked if the layer stores it quantized."""
        computed = computed_kernel(self)
        return computed.shape if computed else tuple(self.variable.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def layout(self) -> Layout:
        """The input and output axes of the kernel."""
        shape, name = self.shape, self.variable.name
        rank = len(shape)
        if isinstance(self.layer, _DEPTHWISE) and name != "pointwise_kernel":
            return Layout((), (rank - 2, rank - 1), convolution=True)
        if isinstance(self.layer, keras.layers.EinsumDense):
            inputs, outputs = self.layer.equation.split("->")
            axes = inputs.split(",")[1]
            return Layout(
                tuple(i for i, axis in enumerate(axes) if axis not in outputs),
                tuple(i for i, axis in enumerate(axes) if axis in outputs),
            )
        if isinstance(self.layer, _TRANSPOSED):
            return Layout((rank - 1,), (rank - 2,), convolution=True)
        return Layout(
            (rank - 2,),
            (rank - 1,),
            convolution=isinstance(self.layer, (*_DEPTHWISE, *_CONVOLUTIONS)),
        )

    @property
    def output_units(self) -> int:
        """Number of outputs the kernel feeds: channels, units or filters."""
        return self.layout.output_units(self.shape)


_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
_DEPTHWISE = (
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


@dataclass(frozen=True)
class Prunables:
    """The result of `find_prunable`.

    Args:
        kernels: The prunable variables, by first appearance in
            `layer.trainable_variables`.
        left_out: Pairs of a kernel and the reason it is not pruned.
    """

    kernels: tuple[Kernel, ...]
    left_out: tuple[tuple[Kernel, str], ...]

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a kernel's path and the reason it is not pruned."""
        return tuple((k.path, reason) for k, reason in self.left_out)

    def reason(self, variable: keras.Variable) -> str | None:
        """Return why a variable is not pruned; `None` if it is."""
        return next(
            (why for k, why in self.left_out if k.variable is variable), None
        )


def find_prunable(
    layer: keras.Layer,
    filters: str | list[str] | Callable | None = None,
    exclude: str | list[str] | Callable | None = None,
    to_measure: bool = False,
) -> Prunables:
    """Find the prunable variables of a built layer or model.

    A variable is prunable if it is trainable, has rank 2 or more, and its name
    ends in "kernel", in any class of layer. The table of an `Embedding` is
    prunable only if `filters` is given and matches the layer. A layer can
    declare other variables in an attribute `prunable_weights`. Biases and
    normalization parameters are never prunable.

    Args:
        layer: A built layer or model.
        filters: Which layers to prune: a regex or list of regexes searched in
            the layer's name and path, or a callable layer -> bool. A match
            includes the layers inside. Defaults to all.
        exclude: Which layers not to prune, in the same form. Defaults to none.
        to_measure: Whether kernels are only measured. Then kernels that are
            quantized or have LoRA are found too.

    Returns:
        A `Prunables`.

    Raises:
        TypeError: If `filters` or `exclude` has another type.
        ValueError: If a layer is quantized or has LoRA enabled, unless
            `to_measure`.
    """
    matches = as_filter(filters)
    excludes = as_filter(exclude, name="exclude", default=False)
    owners, skipped = {}, {}
    for owner, around in _walk(layer):
        matched = any(map(matches, (owner, *around)))
        excluded = any(map(excludes, (owner, *around)))
        if not to_measure:
            _check_as_trained(owner)
        for variable in _candidates(owner, filters is not None):
            if id(variable) in owners:
                continue
            if not matched or excluded:
                skipped[id(variable)] = (
                    Kernel(variable, owner),
                    "matched by `exclude`"
                    if excluded
                    else "not matched by `filters`",
                )
            elif not is_trainable(Kernel(variable, owner)):
                skipped[id(variable)] = Kernel(variable, owner), FROZEN
            else:
                skipped.pop(id(variable), None)
                owners[id(variable)] = Kernel(variable, owner)
    ordered = [owners[id(v)] for v in layer.variables if id(v) in owners]
    return Prunables(tuple(ordered), tuple(skipped.values()))


def is_trainable(kernel: Kernel) -> bool:
    """Return whether a kernel is trained rather than frozen.

    Quantized kernels and kernels with LoRA count: they were trained before.
    """
    trained = kernel.variable.trainable or computed_kernel(kernel)
    return bool(trained and kernel.layer.trainable)


def computed_kernel(kernel: Kernel) -> FloatKernel | None:
    """Return the kernel that a quantized or LoRA layer computes with.

    Returns:
        A `FloatKernel`; `None` if it is the variable itself.
    """
    layer = kernel.layer  # May have been deleted.
    computed = [] if layer is None else float_kernels(layer)
    return next((k for k in computed if k.variable is kernel.variable), None)


def as_it_is_now(kernel: Kernel) -> Kernel:
    """Find a kernel again after its layer was quantized."""
    layer = kernel.layer  # May have been deleted.
    for computed in [] if layer is None else float_kernels(layer):
        if computed.role == kernel.variable.name:
            return Kernel(computed.variable, kernel.layer)
    return kernel


def unique_paths(kernels: Iterable[Kernel]) -> list[str]:
    """Return the kernels' paths, with duplicates numbered."""
    seen, paths = collections.Counter(), []
    for kernel in kernels:
        seen[kernel.path] += 1
        again = seen[kernel.path]
        paths.append(f"{kernel.path} ({again})" if again > 1 else kernel.path)
    return paths


def _walk(layer, around=()):
    """Yield each layer with the layers around it, except the outermost."""
    yield layer, around[1:]
    for inner in layers_of(layer):
        # Sequential holds a Functional model of the same name: itself again.
        again = inner.name == layer.name
        yield from _walk(inner, around if again else (*around, layer))


def _check_as_trained(layer):
    """Raise ValueError if a layer is quantized or has LoRA."""
    if getattr(layer, "prunable_weights", None) is not None:
        return
    if is_quantized(layer):
        raise ValueError(
            "A quantized layer cannot be pruned: prune, strip, and then "
            "quantize, which keeps zeros. "
            f"Received: layer '{layer.path or layer.name}' quantized to "
            f"'{layer.quantization_mode}'"
        )
    if has_lora(layer):
        raise ValueError(
            "A layer with LoRA cannot be pruned, because the LoRA update is "
            "not sparse: prune before `enable_lora`, and do not expect zeros "
            "after the update is merged. "
            f"Received: layer '{layer.path or layer.name}' with LoRA enabled"
        )


def _candidates(layer, embeddings):
    declared = getattr(layer, "prunable_weights", None)
    if declared is not None:
        return list(declared() if callable(declared) else declared)
    if computed := float_kernels(layer):
        return [
            kernel.variable
            for kernel in computed
            if embeddings or kernel.role == "kernel"
        ]
    inner = {id(v) for sub in layers_of(layer) for v in sub.variables}
    return [
        v
        for v in layer.weights
        if id(v) not in inner
        and len(v.shape) >= 2
        and (
            v.name.endswith("kernel")
            or (embeddings and v.name.endswith("embeddings"))
        )
    ]


def as_filter(
    filters, name: str = "filters", default: bool = True
) -> Callable[[keras.Layer], bool]:
    """Turn `filters` (see `find_prunable`) into a callable layer -> bool."""
    if filters is None:
        return lambda layer: default
    if callable(filters):
        return filters
    patterns = [filters] if isinstance(filters, str) else filters
    if not isinstance(patterns, (list, tuple)) or not all(
        isinstance(pattern, str) for pattern in patterns
    ):
        raise TypeError(
            f"`{name}` must be a regex, a list of regexes or a callable. "
            f"Received: {name}={filters!r}"
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"`{name}` must hold valid regexes. "
                f"Received: {pattern!r}: {error}"
            ) from error
    return lambda layer: any(
        re.search(pattern, name)
        for pattern in patterns
        for name in (layer.name, layer.path or "")
    )
