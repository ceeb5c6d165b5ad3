"""What the zeros of a model do where it is deployed."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_bimp._src.keras_internals.functional_graphs import maker_of
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.quantization import float_kernels
from keras_bimp._src.kernel_choices import last_choices
from keras_bimp._src.masking import Kernel
from keras_bimp._src.metrics import EffectiveKernels
from keras_bimp._src.metrics.units import units_left
from keras_bimp._src.reporting.facts import SizeFacts
from keras_bimp._src.reporting.facts import Verdict
from keras_bimp._src.shrinking.following import is_graph

# Of these an output that is all zeros may be left away.
_WITH_CHANNELS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Dense,
)

_REMOVED = "Any runtime, by removing channels"


def verdicts(
    model: keras.Model,
    kernels: Sequence[Kernel],
    effective: EffectiveKernels,
    sizes: Sequence[SizeFacts],
) -> list[Verdict]:
    """Says for each target what the zeros change there, and what not.

    Args:
        model: The plain model.
        kernels: Its kernels.
        effective: What they come to under their masks.
        sizes: Of the files.
    """
    if all(effective.nonzero(k.variable) == k.size for k in kernels):
        return [Verdict("Everywhere", "No weight is zero: nothing changes.")]
    return [
        Verdict(
            "Keras on TensorFlow, JAX or PyTorch",
            "Zeros are stored and multiplied like any other weight: the same "
            "time and memory as the dense model.",
        ),
        Verdict(
            "TensorFlow Serving (SavedModel)",
            _served(model) + _gzipped(sizes, "SavedModel"),
        ),
        Verdict(
            "Downloads and archives",
            "What is compressed is smaller." + _gzipped(sizes, ".keras"),
        ),
        Verdict(
            "LiteRT (phones)",
            "A plain conversion keeps and multiplies the zeros. With "
            "granularity='1x4' and sparse_tensors=True dense layers skip "
            "them.",
        ),
        Verdict(
            "ONNX Runtime, OpenVINO",
            "The zeros are multiplied. OpenVINO can read 8-bit dense layers "
            "with many zeros faster on server CPUs that have AMX.",
        ),
        Verdict(
            "NVIDIA GPUs with sparse tensor cores",
            "They need 2 zeros in every 4 weights along the inputs: that "
            + (
                "holds in every kernel that has zeros."
                if _all_two_of_four(kernels, effective)
                else "does not hold here; prune with granularity='2:4'."
            ),
        ),
        _removable(model, kernels, effective),
    ]


def _served(model):
    """What was measured when the model was last exported, or could be."""
    kernels = last_choices(model)
    if kernels is None:
        return (
            "As it is, the same time and memory as the dense model. With "
            "sparse_kernels='auto', `export` measures which kernels are faster "
            "as sparse matrices, usually from about 95% zeros on."
        )
    return f"As last exported: {kernels.summary}"


def _gzipped(sizes, name):
    for size in sizes:
        if size.format == name and size.dense_gzipped:
            share = size.gzipped / size.dense_gzipped
            return f" Gzipped it has {share:.1%} of the dense one's size."
        if size.format == name:
            share = size.gzipped / size.raw
            return f" Gzipped it has {share:.1%} of its size."
    return ""


def _removable(model, kernels, effective):
    """How many channels, units and heads could be left away."""
    if any(map(float_kernels, layers_in(model))):
        return Verdict(
            _REMOVED,
            "`keras_bimp.shrink` takes out what is all zeros before a model "
            "is quantized or gets LoRA.",
        )
    counts = (
        _units(model, effective)
        if is_graph(model)
        else _channels(model, kernels, effective)
    )
    told = [
        f"{unused:,} of {total:,} {kind} ({unused / total:.1%})"
        for kind, (unused, total) in counts.items()
        if unused
    ]
    text = (
        "No channel, unit or head inside the model is all zeros; prune with "
        "granularity='unit' for a model that can be made smaller and faster "
        "everywhere."
    )
    if told:
        text = (
            f"{' and '.join(told)} inside the model are all zeros. Where they "
            "are taken out, as `keras_bimp.shrink` does, it is smaller and "
            "faster everywhere."
        )
    return Verdict(_REMOVED, text)


def _units(model, effective):
    """Kind of unit -> how many are all zeros, of how many that can go."""
    counts = {}
    for name, (left, total) in units_left(model, effective).items():
        kind = name.partition(" of ")[0]
        unused, all_ = counts.get(kind, (0, 0))
        counts[kind] = unused + total - left, all_ + total
    return counts


def _channels(model, kernels, effective):
    """The same for a model without a graph that is known."""
    ends = _layers_of_outputs(model)
    channels = unused = 0
    for kernel in kernels:
        if type(kernel.layer) in _WITH_CHANNELS and kernel.layer not in ends:
            zero = _is_zero(kernel, effective).all(axis=(0, 1))
            channels += zero.size
            unused += int(zero.sum())
    return {"channels": (unused, channels)}


def _layers_of_outputs(model):
    """The layers whose outputs are the model's: these have a meaning."""
    outputs = keras.tree.flatten(getattr(model, "outputs", None))
    makers = [maker_of(x) for x in outputs]
    if None in makers or not makers:
        # A subclassed model: whichever layer comes last.
        return layers_in(model)[-1:]
    return makers


def _is_zero(kernel, effective):
    """Whether entries are 0, of shape (space, inputs, outputs)."""
    value = keras.ops.convert_to_numpy(effective.value(kernel.variable))
    return kernel.layout.matrices(value == 0)


def _all_two_of_four(kernels, effective):
    zeros = (_is_zero(kernel, effective) for kernel in kernels)
    return all(_two_of_four(zero) for zero in zeros if zero.any())


def _two_of_four(zero):
    # The last group is filled up with zeros.
    padding = [(0, 0), (0, -zero.shape[1] % 4), (0, 0)]
    zero = np.pad(zero, padding, constant_values=True)
    space, inputs, outputs = zero.shape
    fours = zero.reshape(space, inputs // 4, 4, outputs)
    return bool((fours.sum(axis=2) >= 2).all())
