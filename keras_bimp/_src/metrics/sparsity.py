"""The fraction of zeros."""

from typing import NamedTuple

import keras

from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.quantization import variables_beside
from keras_bimp._src.masking import find_prunable
from keras_bimp._src.masking import masked_kernels
from keras_bimp._src.masking import masked_layers
from keras_bimp._src.metrics.effective_kernels import EffectiveKernels


class Sparsity(NamedTuple):
    """Fractions of zeros.

    Attributes:
        prunable: The fraction of prunable weights that are zero. A target
            sparsity refers to this one.
        total: The same zeros as a fraction of all parameters of the plain
            model, as counted by `summary()` before quantization or LoRA.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.set_weights([np.array([[0.0], [1.0], [0.0]]), np.zeros(1)])
    >>> keras_bimp.sparsity(model).total  # With the bias.
    0.5
    """

    prunable: float
    total: float


def sparsity(model: keras.Model, filters=None) -> Sparsity:
    """Returns the fraction of weights that are exactly 0.

    These are the weights that the model computes with: for a quantized layer,
    its codes times their scales; for a layer with LoRA, the sum of both.

    Args:
        model: A built model: plain, wrapped or stripped. It may be quantized.
        filters: Which layers to include: a regex or list of regexes searched
            in the layer's name and path, or a callable layer -> bool. Defaults
            to all layers.

    Returns:
        A `Sparsity`; (0.0, 0.0) if nothing is prunable.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.array([[0, 1], [2, 0], [3, 4]]), np.zeros(2)])
    >>> keras_bimp.sparsity(model)
    Sparsity(prunable=0.3333333333333333, total=0.25)

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Section 1.
    """
    effective = EffectiveKernels(model)
    zeros = prunable = 0
    kernels = {
        id(kernel.variable): kernel
        for kernel in find_prunable(model, filters, to_measure=True).kernels
    }
    if filters is None:
        # Includes kernels that a filter of `wrap` chose, such as embeddings.
        asked, _ = masked_kernels(model)
        kernels |= {id(kernel.variable): kernel for kernel in asked}
    for kernel in kernels.values():
        prunable += kernel.size
        zeros += kernel.size - effective.nonzero(kernel.variable)
    total = count_parameters(model)
    return Sparsity(
        zeros / prunable if prunable else 0.0, zeros / total if total else 0.0
    )


def count_parameters(model: keras.Model) -> int:
    """Counts the parameters of a model before masks, quantization and LoRA."""
    effective = EffectiveKernels(model)
    apart = {id(m) for masked in masked_layers(model) for m in masked.masks}
    apart |= {id(v) for x in layers_in(model) for v in variables_beside(x)}
    return sum(effective.size(v) for v in model.weights if id(v) not in apart)
