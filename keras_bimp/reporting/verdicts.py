"""What the zeros of a model do where it is deployed."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_bimp.masking import Kernel
from keras_bimp.metrics import EffectiveKernels
from keras_bimp.reporting.facts import SizeFacts
from keras_bimp.reporting.facts import Verdict


def verdicts(
    kernels: Sequence[Kernel],
    effective: EffectiveKernels,
    sizes: Sequence[SizeFacts],
) -> list[Verdict]:
    """Says for each target what the zeros change there, and what not.

    Args:
        kernels: The kernels of the model.
        effective: What they come to under their masks.
        sizes: Of the files.
    """
    outputs, unused, pairs = _structure(kernels, effective)
    return [
        Verdict(
            "Keras on TensorFlow, JAX or PyTorch",
            "Zeros are stored and multiplied like any other weight: the same "
            "time and memory as the dense model.",
        ),
        Verdict(
            "TensorFlow Serving (SavedModel)",
            "The same time and memory as the dense model."
            + _smaller(sizes, "SavedModel"),
        ),
        Verdict(
            "Downloads and archives",
            "Compressed files shrink." + _smaller(sizes, ".keras"),
        ),
        Verdict(
            "LiteRT (phones)",
            "A plain conversion keeps and multiplies the zeros. Its XNNPACK "
            "kernels can skip those of 1x1 convolutions, from about 70% of "
            "zeros on, if the converter is asked for sparse tensors.",
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
                "holds in every kernel that is pruned."
                if pairs
                else "does not hold here; prune with granularity='2:4'."
            ),
        ),
        Verdict(
            "Any runtime, by removing channels",
            (
                f"{unused:,} of {outputs:,} output channels are all zeros "
                f"({unused / outputs:.1%}): without them the model is smaller "
                "and faster everywhere."
                if unused
                else "No output channel is all zeros; prune with "
                "granularity='filter' for a model that is smaller and faster "
                "everywhere."
            ),
        ),
    ]


def _smaller(sizes, name):
    for size in sizes:
        if size.format == name:
            text = f" The {name}"
            if size.dense_gzipped:
                return (
                    f"{text} takes {size.gzipped / 1e6:,.2f} MB gzipped, "
                    f"{size.dense_gzipped / size.gzipped:.1f} times less than "
                    "the dense one."
                )
            return (
                f"{text} takes {size.gzipped / 1e6:,.2f} MB gzipped, "
                f"{size.raw / 1e6:,.2f} MB as it is."
            )
    return ""


def _structure(kernels, effective):
    """Output channels, those of them that are all 0, and whether 2:4 holds."""
    outputs = unused = 0
    pairs = []
    for kernel in kernels:
        zero = keras.ops.convert_to_numpy(effective.value(kernel.variable)) == 0
        matrices = kernel.layout.matrices(zero)
        outputs += matrices.shape[2]
        unused += int(matrices.all(axis=(0, 1)).sum())
        if zero.any():
            pairs.append(_two_of_four(matrices))
    return outputs, unused, bool(pairs) and all(pairs)


def _two_of_four(zero):
    # The last group is filled up with zeros.
    padding = [(0, 0), (0, -zero.shape[1] % 4), (0, 0)]
    zero = np.pad(zero, padding, constant_values=True)
    space, inputs, outputs = zero.shape
    fours = zero.reshape(space, inputs // 4, 4, outputs)
    return bool((fours.sum(axis=2) >= 2).all())
