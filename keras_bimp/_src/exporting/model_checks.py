"""Checks of a model before it is exported."""

import inspect
import keyword
import re
import warnings
from collections.abc import Sequence

import keras
import numpy as np

from keras_bimp._src.backends import as_array
from keras_bimp._src.checks import check_choice
from keras_bimp._src.checks import check_integer
from keras_bimp._src.exporting.inputs import input_names
from keras_bimp._src.exporting.options import INT8_WEIGHTS
from keras_bimp._src.exporting.options import QUANTIZATIONS
from keras_bimp._src.exporting.runtimes import in_tensorflow
from keras_bimp._src.failures import why_failed
from keras_bimp._src.keras_internals.functional_graphs import Functional
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.layers import shapes_built_with
from keras_bimp._src.keras_internals.quantization import has_lora
from keras_bimp._src.keras_internals.saving import get_input_signature
from keras_bimp._src.masking import masked_kernels
from keras_bimp._src.masking import masked_layers
from keras_bimp._src.metrics import EffectiveKernels
from keras_bimp._src.model_record import progress_of
from keras_bimp._src.name_lists import listed


def check_model(model: keras.Model) -> None:
    """Raises ValueError unless a model is built, plain, and sound."""
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"`model` must be a built keras.Model. Received: model={model!r}"
        )
    if masked_layers(model):
        raise ValueError(
            "`model` must be stripped first: "
            "`keras_bimp.export(keras_bimp.strip(model), ...)`. "
            f"Received: model={model!r}"
        )
    reason = why_failed(model) or _not_finite(model)
    if reason is not None:
        raise ValueError(
            "`model` must not come from a failed training. Received: "
            f"{reason}. Train it again, or load good weights into a new model"
        )


def check_types(
    model: keras.Model, format: str, lacks: tuple[str, ...]
) -> None:
    """Raises ValueError if a layer computes in a type that a format lacks."""
    for layer in layers_in(model):
        if layer.compute_dtype in lacks and _computes(layer):
            raise ValueError(
                f"`model` must not compute in {layer.compute_dtype}, because "
                f"format={format!r} has no operations for it. Received: layer "
                f"'{layer.path or layer.name}' with the policy "
                f"'{layer.dtype_policy.name}'. {_IN_FLOAT32}"
            )


def remedy_of_types(model: keras.Model) -> str:
    """Returns a remedy if a type may lack operations, else an empty string."""
    types = {
        layer.compute_dtype
        for layer in layers_in(model)
        if _computes(layer)
        and keras.backend.is_float_dtype(layer.compute_dtype)
    }
    others = sorted(types - {"float32"})
    if not others:
        return ""
    return (
        f". `model` computes in {', '.join(others)}, which not every "
        f"operation supports. {_IN_FLOAT32}"
    )


def _computes(layer):
    # A model's layers compute, not the model.
    return not isinstance(layer, keras.Model | keras.layers.InputLayer)


def check_arguments(model: keras.Model) -> None:
    """Raises ValueError if Keras does not know all arguments of `call`."""
    if isinstance(model, keras.Sequential | Functional):
        return
    specs = get_input_signature(model)
    signature = inspect.signature(model.call)
    implied = {"training", "mask"} & {*signature.parameters}
    takes = [
        name
        for name, parameter in signature.parameters.items()
        if name not in implied
        and parameter.default is parameter.empty
        and parameter.kind
        not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    built = [key.removesuffix("_shape") for key in shapes_built_with(model)]
    try:
        bound = signature.bind(*specs, **dict.fromkeys(implied)).arguments
        bound = [name for name in bound if name not in implied]
    except TypeError:
        bound = None
    if bound is None or (len(built) > 1 and built != bound):
        wanted = ", ".join(["self", *(f"{name}_shape" for name in takes)])
        raise ValueError(
            "`model` must have a `build` from which Keras learns the shapes "
            f"of all arguments of `call`: define `build({wanted})`, in the "
            "order of `call`, with no keyword-only arguments. Received: "
            f"a model whose `call` takes {', '.join(takes)}, and that was "
            f"built with {', '.join(shapes_built_with(model))}"
        )


def check_input_names(model: keras.Model, format: str) -> None:
    """Raises ValueError if TensorFlow does not allow these input names."""
    names, known = input_names(model), set()
    for name in names:
        if name is None:
            continue
        taken = in_tensorflow(name).lower()
        if (
            not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.-]*", name)
            or keyword.iskeyword(name)
            or name == "self"
        ):
            reason = f"an input {name!r}"
        elif taken in known:
            reason = f"inputs {names!r}, of which {name!r} is not unique"
        else:
            known.add(taken)
            continue
        raise ValueError(
            f"`model` must have valid input names for format={format!r}: "
            "ASCII letters, digits, '_', '-', and '.', beginning with a "
            "letter or digit, not a Python keyword or 'self', and differing "
            "in more than case and punctuation. "
            f"Received: {reason}. Set the name with `keras.Input(..., "
            "name=...)`, or use format='onnx', which allows any name"
        )


def checked_sparse_kernels(
    sparse_kernels: bool | str, batch_sizes: Sequence[int]
) -> tuple[int, ...]:
    """Checks both arguments of `export`, and returns the batch sizes."""
    if sparse_kernels not in (True, False):
        check_choice("sparse_kernels", sparse_kernels, ("auto",))
    if not isinstance(batch_sizes, Sequence) or not batch_sizes:
        raise ValueError(
            "`batch_sizes` must be a list of integers, the batch sizes to "
            f"measure. Received: batch_sizes={batch_sizes!r}"
        )
    return tuple(check_integer("batch_sizes", n, 1) for n in batch_sizes)


def checked_quantize(
    quantize: str | None, calibration_data, format: str
) -> str | None:
    """Checks both arguments of `export`, and returns `quantize`."""
    if quantize is not None:
        known = (INT8_WEIGHTS,) if format == "packed" else QUANTIZATIONS
        check_choice("quantize", quantize, known)
    if (quantize == "int8") != (calibration_data is not None):
        raise ValueError(
            "`calibration_data` must be passed if `quantize` is 'int8', and "
            f"only then. Received: quantize={quantize!r} and "
            f"{'no' if calibration_data is None else 'some'} calibration_data"
        )
    return quantize


def check_sparsity_reached(model: keras.Model) -> None:
    """Raises ValueError if a model is denser than its training's target.

    Warns if the training stopped early, but after the last pruning.
    """
    progress = progress_of(model)
    if progress is None:
        return
    if not progress.complete:
        if not progress.at_target:
            raise ValueError(
                "`model` must have reached its target sparsity. "
                f"Received: a model whose training is incomplete. "
                f"{progress} Train it to the end (`EarlyStopping` may have "
                "ended it: pass it `start_from_epoch`), or export it "
                "unchanged with check_sparsity=False"
            )
        warnings.warn(
            f"The model's training stopped early. {progress}", stacklevel=3
        )
    kernels, _ = masked_kernels(model)
    own = {id(variable) for variable in model.weights}
    if not all(id(kernel.variable) in own for kernel in kernels):
        return  # It is another model that shares these layers.
    effective = EffectiveKernels(model)
    zeros = sum(k.size - effective.nonzero(k.variable) for k in kernels)
    if kernels and zeros < progress.pruned:
        adapted = [x.path or x.name for x in layers_in(model) if has_lora(x)]
        if adapted:
            raise ValueError(
                "`model` must still have the zeros of its training, and LoRA "
                f"updates are not sparse. Received: {zeros:,} zeros, where "
                f"{progress.pruned:,} were pruned, with LoRA in "
                f"{listed(map(repr, adapted))}. `save_weights` merges LoRA: "
                "load its file into a model built without "
                "LoRA, and prune that. To export it unchanged, pass "
                "check_sparsity=False"
            )
        raise ValueError(
            "`model` must still have the zeros of its training. Received: "
            f"{zeros:,} zeros, where {progress.pruned:,} were pruned: other "
            "weights were loaded, or it was trained without masks. "
            "`keras_bimp.wrap(model, initial_masks='nonzero')` keeps zeros "
            "during training. To export it unchanged, pass check_sparsity=False"
        )


def _not_finite(model):
    for variable in model.weights:
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        value = as_array(variable, copy=False).astype("float32")
        # A constant may be infinite, such as an attention mask.
        computed = variable.trainable or variable.name.startswith("moving_")
        if np.isnan(value).any() or (computed and np.isinf(value).any()):
            return f"a weight is not finite, in '{variable.path}'"
    return None


_IN_FLOAT32 = (
    "Build the model in float32 and copy the weights: "
    "`keras.config.set_dtype_policy('float32'); other = build_model(); "
    "other.set_weights(model.get_weights())`"
)
