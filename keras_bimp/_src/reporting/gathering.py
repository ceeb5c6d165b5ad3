"""Measures all that a report tells, and notes what cannot be measured."""

from collections.abc import Callable

import keras

from keras_bimp._src.backends import backend
from keras_bimp._src.evaluating import evaluate
from keras_bimp._src.failures import why_failed
from keras_bimp._src.foreign_errors import told
from keras_bimp._src.metrics import EffectiveKernels
from keras_bimp._src.metrics import sparsity
from keras_bimp._src.metrics.macs import count_work
from keras_bimp._src.metrics.sparsity import count_parameters
from keras_bimp._src.metrics.tracing import input_specs
from keras_bimp._src.model_record import progress_of
from keras_bimp._src.reporting import histories
from keras_bimp._src.reporting.copies import plain_copy
from keras_bimp._src.reporting.facts import Report
from keras_bimp._src.reporting.facts import SizeFacts
from keras_bimp._src.reporting.histograms import histogram
from keras_bimp._src.reporting.report_kernels import kernel_facts
from keras_bimp._src.reporting.report_kernels import kernels_of
from keras_bimp._src.reporting.report_kernels import plain
from keras_bimp._src.reporting.sizes import file_sizes
from keras_bimp._src.reporting.times import prediction_times
from keras_bimp._src.reporting.verdicts import verdicts
from keras_bimp._src.retraining import Samples
from keras_bimp._src.version import __version__


def gather(
    model: keras.Model,
    dense: keras.Model | None,
    samples: Samples | None,
    history,
    latency: bool,
    input_shape,
    tell: Callable,
) -> Report:
    """Measures what `report` tells. See there for the arguments.

    Args:
        tell: Takes up how far it came; see `waiting`.
    """
    logs, missing = histories.numbers(history)
    attempt = _Attempts(missing, tell)
    if input_shape is None and samples is not None and samples.arrays:
        input_shape = _first_if_open(model, samples.data[0])
    effective = EffectiveKernels(model)
    macs, work = attempt(
        "Multiply-adds", (None, {}), count_work, model, input_shape
    )
    kernels = kernel_facts(model, effective, work)
    unknown = () if macs is None else macs.unknown
    if unknown and not macs.dense:
        macs = None  # Not 0 of 0.
    copies = [
        attempt(f"Files and times of {name}", None, plain_copy, each, shape)
        for name, each, shape in (
            ("the model", model, input_shape),
            ("the dense model", dense, None),
        )
        if each is not None
    ]
    sizes = _sizes(copies, attempt)
    if backend() != "tensorflow":
        missing.append(
            ("Size of the SavedModel", "measured on TensorFlow only")
        )
    times = ()
    if latency and copies[0] is not None:
        timed = [copy for copy in copies if copy is not None]
        times = attempt(
            "Times of predictions", (), prediction_times, timed, input_shape
        )
    status, state = _state(model)
    share = sparsity(model)
    zeros = sum(kernel.size - kernel.left for kernel in kernels)
    parameters = count_parameters(plain(model))
    return Report(
        name=plain(model).name,
        made_with=_made_with(),
        status=status,
        state=state or f"Sparsity {share.prunable:.2%} of what is prunable.",
        parameters=parameters,
        kernels=kernels,
        sparsity=share.prunable,
        total_sparsity=zeros / parameters,
        dense_macs=None if macs is None else macs.dense,
        macs=None if macs is None else macs.nonzero,
        not_counted=unknown,
        sizes=sizes,
        times=tuple(times),
        metrics={}
        if samples is None
        else _metrics(model, dense, samples, attempt),
        verdicts=tuple(
            verdicts(plain(model), kernels_of(model), effective, sizes)
        ),
        history=logs,
        phases=histories.phases(logs),
        histogram=attempt("Histogram", None, histogram, model, dense),
        missing=tuple(missing),
    )


class _Attempts:
    """Calls what may fail, and notes why it did.

    Args:
        missing: List to append pairs (what, why) to.
        tell: Takes up what is called.
    """

    def __init__(self, missing, tell):
        self._missing = missing
        self._tell = tell

    def __call__(self, what, default, function, *args):
        self._tell(what[:1].lower() + what[1:])
        try:
            return function(*args)
        except Exception as error:
            self._missing.append((what, told(error)))
            return default


def _first_if_open(model, x):
    """The first example, if the model takes inputs of several sizes."""
    try:
        input_specs(model)
    except ValueError:
        return keras.tree.map_structure(lambda array: array[:1], x)
    return None


def _sizes(copies, attempt):
    ours, theirs = (
        {} if copy is None else attempt("File sizes", {}, file_sizes, copy)
        for copy in (*copies, None)[:2]
    )
    return tuple(
        SizeFacts(name, *size, *theirs.get(name, (None, None)))
        for name, size in ours.items()
    )


def _metrics(model, dense, samples, attempt):
    given = {"x": samples.data}
    if samples.arrays:
        given = dict(
            zip(("x", "y", "sample_weight"), samples.data, strict=False)
        )
    ours, theirs = (
        {} if each is None else attempt(what, {}, _evaluate, each, given)
        for what, each in (
            ("Metrics of the model", model),
            ("Metrics of the dense model", dense),
        )
    )
    return {name: (value, theirs.get(name)) for name, value in ours.items()}


def _evaluate(model, given):
    if not model.compiled:
        raise ValueError("it is not compiled")
    return evaluate(model, given)


def _state(model):
    reason = why_failed(model)
    if reason is not None:
        return "failed", f"Failed: {reason}."
    progress = progress_of(model)
    if progress is None:
        return "unknown", ""
    status = "complete" if progress.complete else "incomplete"
    return status, str(progress)


def _made_with():
    return f"keras_bimp {__version__}, Keras {keras.__version__} on {backend()}"
