"""Which variables of a layer or model can be pruned, and which cannot."""

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

# The reason why `find_prunable` leaves a kernel alone that is not trained.
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
        """Of what the layer computes with, not of codes that it stores."""
        computed = computed_kernel(self)
        return computed.shape if computed else tuple(self.variable.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def layout(self) -> Layout:
        """Which axes of the kernel are inputs, and which outputs."""
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
        """How many outputs the kernel feeds: channels, units or filters."""
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
    """What `find_prunable` found.

    Args:
        kernels: The prunable variables, by first appearance in
            `layer.trainable_variables`.
        left_out: Pairs of a kernel and the reason it is left alone.
    """

    kernels: tuple[Kernel, ...]
    left_out: tuple[tuple[Kernel, str], ...]

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a kernel's path and the reason it is left alone."""
        return tuple((k.path, reason) for k, reason in self.left_out)

    def reason(self, variable: keras.Variable) -> str | None:
        """Why a variable is left alone; `None` if it is not."""
        return next(
            (why for k, why in self.left_out if k.variable is variable), None
        )


def find_prunable(
    layer: keras.Layer,
    filters: str | list[str] | Callable | None = None,
    exclude: str | list[str] | Callable | None = None,
    to_measure: bool = False,
) -> Prunables:
    """Finds the prunable variables of a built layer or model.

    Prunable is a trainable variable of rank 2 or more whose name ends in
    "kernel", whatever layer holds it. The table of an `Embedding` is prunable
    only if `filters` is given and matches the layer. A layer may declare other
    variables in an attribute `prunable_weights`. Biases and the parameters of
    normalisation never are.

    Args:
        layer: A built layer or model.
        filters: Which layers to prune: a regex or list of regexes searched in
            the layer's name and path, or a callable layer -> bool. A layer
            that matches brings those inside it along. Defaults to all.
        exclude: Which of them not to prune, said in the same way. Defaults to
            none.
        to_measure: Whether kernels are only measured: then those of quantized
            layers and those that LoRA adds to are found too.

    Returns:
        A `Prunables`.

    Raises:
        TypeError: If `filters` or `exclude` is none of these.
        ValueError: If a layer is quantized, or has LoRA enabled, and kernels
            are not only measured.
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
    """Whether a kernel is trained, and not frozen.

    One that is quantized, or that LoRA adds to, was before.
    """
    trained = kernel.variable.trainable or computed_kernel(kernel)
    return bool(trained and kernel.layer.trainable)


def computed_kernel(kernel: Kernel) -> FloatKernel | None:
    """What a layer that is quantized or has LoRA computes with.

    Returns:
        A `FloatKernel`; `None` where that is the variable itself.
    """
    layer = kernel.layer  # It may be gone.
    computed = [] if layer is None else float_kernels(layer)
    return next((k for k in computed if k.variable is kernel.variable), None)


def as_it_is_now(kernel: Kernel) -> Kernel:
    """The kernel of the same layer and name after the layer was quantized."""
    layer = kernel.layer  # It may be gone.
    for computed in [] if layer is None else float_kernels(layer):
        if computed.role == kernel.variable.name:
            return Kernel(computed.variable, kernel.layer)
    return kernel


def unique_paths(kernels: Iterable[Kernel]) -> list[str]:
    """The kernels' paths, numbered where several have the same."""
    seen, paths = collections.Counter(), []
    for kernel in kernels:
        seen[kernel.path] += 1
        again = seen[kernel.path]
        paths.append(f"{kernel.path} ({again})" if again > 1 else kernel.path)
    return paths


def _walk(layer, around=()):
    """Yields each layer with those around it, but for the outermost."""
    yield layer, around[1:]
    for inner in layers_of(layer):
        # Sequential holds a Functional model of its own name: itself again.
        again = inner.name == layer.name
        yield from _walk(inner, around if again else (*around, layer))


def _check_as_trained(layer):
    """Raises ValueError if a layer is quantized or has LoRA."""
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
            "A layer with LoRA cannot be pruned, for what LoRA adds to its "
            "kernel is not sparse: prune before `enable_lora`, and expect no "
            "zeros of the two together. "
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
    """Turns `filters` (see `find_prunable`) into a callable layer -> bool."""
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
