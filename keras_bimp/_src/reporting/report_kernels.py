"""The kernels of a model, and why some of them are not pruned."""

import keras

from keras_bimp._src.masking import Kernel
from keras_bimp._src.masking import MaskedModel
from keras_bimp._src.masking import find_prunable
from keras_bimp._src.masking import masked_kernels
from keras_bimp._src.masking import masked_layers
from keras_bimp._src.masking import unique_paths
from keras_bimp._src.metrics import EffectiveKernels
from keras_bimp._src.model_record import progress_of
from keras_bimp._src.reporting.facts import ONLY_IF_ASKED
from keras_bimp._src.reporting.facts import KernelFacts


def plain(model: keras.Model) -> keras.Model:
    """The model inside a wrapped one; any other as it is."""
    return model.wrapper.layer if isinstance(model, MaskedModel) else model


def kernels_of(model: keras.Model) -> list[Kernel]:
    """All kernels and tables of a model, in its order."""
    found = _all_of(model)
    position = {id(v): i for i, v in enumerate(model.weights)}
    return sorted(
        [*found.kernels, *(kernel for kernel, _ in found.left_out)],
        key=lambda kernel: position[id(kernel.variable)],
    )


def _all_of(model):
    return find_prunable(plain(model), lambda layer: True, to_measure=True)


def kernel_facts(
    model: keras.Model,
    effective: EffectiveKernels,
    work: dict[int, tuple[int, int]],
) -> tuple[KernelFacts, ...]:
    """What a report tells of each kernel.

    Args:
        model: A built model: plain, wrapped or stripped.
        effective: What its kernels come to.
        work: Multiply-adds by `id` of kernel; see `count_work`.
    """
    kernels = kernels_of(model)
    reasons = _reasons(model, kernels)
    facts = []
    for kernel, path in zip(kernels, unique_paths(kernels), strict=True):
        left = effective.nonzero(kernel.variable)
        status = reasons.get(id(kernel.variable))
        if left < kernel.size and status != "frozen":
            status = "pruned"
        dense, nonzero = work.get(id(kernel.variable), (None, None))
        facts.append(
            KernelFacts(
                path=path,
                layer=type(kernel.layer).__name__,
                shape=kernel.shape,
                left=left,
                dense_macs=dense,
                macs=nonzero,
                status=status or "dense",
            )
        )
    return tuple(facts)


def _reasons(model, kernels):
    """`id` of a kernel -> why it is not pruned, where that is known."""
    masked, skipped = masked_kernels(model)
    asked = {id(kernel.variable) for kernel in masked}
    progress = progress_of(model)
    why = dict(skipped)
    if progress is not None:
        why.update(progress.skipped)
    found = _all_of(model)
    reasons = {id(k.variable): reason for k, reason in found.left_out}
    for kernel in kernels:
        reason = why.get(kernel.path)
        if id(kernel.variable) not in asked:
            if isinstance(kernel.layer, keras.layers.Embedding):
                reason = reason or ONLY_IF_ASKED
            elif masked_layers(model):
                reason = reason or "not masked"
        if reason is not None:
            reasons.setdefault(id(kernel.variable), reason)
    return reasons
