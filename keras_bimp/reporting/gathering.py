"""Gathers what a report tells."""

import math

import keras
import numpy as np

from keras_bimp.backends import backend
from keras_bimp.failures import why_failed
from keras_bimp.masking import MaskedModel
from keras_bimp.masking import find_prunable
from keras_bimp.masking import masked_layers
from keras_bimp.masking import unique_paths
from keras_bimp.metrics import EffectiveKernels
from keras_bimp.metrics import count_flops
from keras_bimp.metrics import sparsity
from keras_bimp.progress import progress_of
from keras_bimp.reporting.facts import Histogram
from keras_bimp.reporting.facts import KernelFacts
from keras_bimp.reporting.facts import Phase
from keras_bimp.reporting.facts import Report
from keras_bimp.reporting.sizes import file_sizes
from keras_bimp.reporting.times import prediction_times
from keras_bimp.reporting.verdicts import verdicts
from keras_bimp.version import __version__

_BINS = 60


def gather(model, dense, samples, history, latency, input_shape) -> Report:
    """Measures all that `report` tells; its arguments, `data` as `Samples`."""
    plain = _plain(model)
    kernels, reasons = _kernels(model)
    effective = EffectiveKernels(model)
    missing = []
    try:
        flops = count_flops(model, input_shape)
    except ValueError as error:
        flops = None
        missing.append(("Multiply-adds", str(error)))
    sizes, why = file_sizes(model, dense)
    missing += why
    times = []
    if latency:
        times, why = prediction_times(model, dense, input_shape=input_shape)
        missing += why
    history = _history(history)
    share = sparsity(model)
    return Report(
        name=plain.name,
        made_with=_made_with(),
        state=_state(model, share),
        parameters=plain.count_params(),
        kernels=tuple(_kernel_facts(kernels, reasons, effective, flops)),
        sparsity=share.prunable,
        total_sparsity=share.total,
        dense_flops=None if flops is None else flops.dense,
        flops=None if flops is None else flops.nonzero,
        not_counted=() if flops is None else flops.unknown,
        sizes=tuple(sizes),
        times=tuple(times),
        metrics={} if samples is None else _metrics(model, dense, samples),
        verdicts=tuple(verdicts(kernels, effective, sizes)),
        history=history,
        phases=tuple(_phases(history)),
        histogram=_histogram(kernels, effective, dense),
        missing=tuple(missing),
    )


def _plain(model):
    return model.wrapper.layer if isinstance(model, MaskedModel) else model


def _kernels(model):
    """All kernels in the order of the model; variable -> why it is dense."""
    found = find_prunable(_plain(model), lambda layer: True)
    reasons = {id(k.variable): reason for k, reason in found.left_out}
    masked = masked_layers(model)
    if masked:
        inside = {id(k.variable) for layer in masked for k in layer.kernels}
        why = {path: text for layer in masked for path, text in layer.skipped}
        for kernel in found.kernels:
            if id(kernel.variable) not in inside:
                reasons[id(kernel.variable)] = why.get(
                    kernel.path, "not masked"
                )
    position = {id(v): i for i, v in enumerate(model.weights)}
    kernels = sorted(
        [*found.kernels, *(kernel for kernel, _ in found.left_out)],
        key=lambda kernel: position[id(kernel.variable)],
    )
    if not kernels:
        raise ValueError(
            "`model` must have something prunable: a weight of rank 2 or more "
            f"whose name ends in 'kernel'. Received: model={model!r}"
        )
    return kernels, reasons


def _kernel_facts(kernels, reasons, effective, flops):
    work = {} if flops is None else dict(_by_kernel(flops))
    for kernel, path in zip(kernels, unique_paths(kernels), strict=True):
        left = effective.nonzero(kernel.variable)
        status = reasons.get(id(kernel.variable))
        if status is None:
            status = "pruned" if left < kernel.size else "dense"
        dense_flops, left_flops = work.get(path, (None, None))
        yield KernelFacts(
            path=path,
            layer=type(kernel.layer).__name__,
            shape=tuple(kernel.variable.shape),
            left=left,
            dense_flops=dense_flops,
            flops=left_flops,
            status=status,
        )


def _by_kernel(flops):
    for layer in flops.layers.values():
        yield from layer.kernels.items()


def _metrics(model, dense, samples):
    ours = _evaluate(model, samples)
    theirs = {} if dense is None else _evaluate(dense, samples)
    return {name: (value, theirs.get(name)) for name, value in ours.items()}


def _evaluate(model, samples):
    if not model.compiled:
        return {}
    given = {"x": samples.data}
    if samples.arrays:
        given = dict(
            zip(("x", "y", "sample_weight"), samples.data, strict=False)
        )
    logs = model.evaluate(**given, verbose=0, return_dict=True)
    return {name: float(value) for name, value in logs.items()}


def _state(model, share):
    reason = why_failed(model)
    if reason is not None:
        return f"Failed: {reason}."
    progress = progress_of(model)
    if progress is not None:
        return str(progress)
    return f"{share.prunable:.2%} of the prunable weights are zeros."


def _history(history):
    """Name -> one number per epoch, `None` for what is no finite number."""
    if history is None:
        return {}
    logs = getattr(history, "history", history)
    if not isinstance(logs, dict):
        raise TypeError(
            "`history` must be what `fit` returned, or its `history`. "
            f"Received: {type(history).__name__}"
        )
    return {
        name: [_number(value) for value in values]
        for name, values in logs.items()
        if all(np.ndim(value) == 0 for value in values)
    }


def _number(value):
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _phases(history):
    cycles = history.get("cycle", [])
    begins = [
        epoch
        for epoch, cycle in enumerate(cycles)
        if not epoch or cycle != cycles[epoch - 1]
    ]
    if not begins:
        return
    for begin, end in zip(begins, [*begins[1:], len(cycles)], strict=True):
        cycle = cycles[begin]
        name = f"cycle {cycle:.0f}" if cycle else "dense"
        yield Phase(name, begin, end)


def _histogram(kernels, effective, dense):
    ours = _weights([effective.value(k.variable) for k in kernels])
    theirs = None
    if dense is not None:
        there, _ = _kernels(dense)
        theirs = _weights(
            [EffectiveKernels(dense).value(k.variable) for k in there]
        )
    both = [x for part in (ours, theirs) if part for x in part if x.size]
    limit = max((float(np.quantile(np.abs(x), 0.999)) for x in both), default=0)
    if not (limit > 0 and math.isfinite(limit)):
        return None
    edges = np.linspace(-limit, limit, _BINS + 1)

    def counts(arrays):
        return sum(
            np.histogram(np.clip(x, -limit, limit), edges)[0] for x in arrays
        )

    return Histogram(
        tuple(edges.tolist()),
        tuple(counts(ours).tolist()),
        None if theirs is None else tuple(counts(theirs).tolist()),
    )


def _weights(values):
    """The entries that are not 0, one array per kernel."""
    arrays = [
        keras.ops.convert_to_numpy(value).astype("float32").ravel()
        for value in values
    ]
    return [array[array != 0] for array in arrays]


def _made_with():
    return f"keras_bimp {__version__}, Keras {keras.__version__} on {backend()}"
