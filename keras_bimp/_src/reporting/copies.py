"""A plain copy of a model, to be saved, timed and thrown away."""

import pathlib
import random
import tempfile

import keras
import numpy as np

from keras_bimp._src.keras_internals.functional_graphs import Functional
from keras_bimp._src.keras_internals.functional_graphs import inputs_of
from keras_bimp._src.keras_internals.layers import foreign_classes
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.quantization import float_kernels
from keras_bimp._src.masking import masked_layers
from keras_bimp._src.masking import strip
from keras_bimp._src.metrics import EffectiveKernels
from keras_bimp._src.metrics.tracing import input_specs
from keras_bimp._src.reporting.report_kernels import plain
from keras_bimp._src.trial_runs import careful_input
from keras_bimp._src.trial_values import input_values


def plain_copy(model: keras.Model, input_shape=None) -> keras.Model:
    """What `strip` would return, without an optimizer, as a new model.

    Args:
        model: A built model: plain, wrapped or stripped. It is left as it is.
        input_shape: See `count_macs`.

    Returns:
        A `keras.Model` that is not compiled, and was called.
    """
    state = random.getstate()  # Keras draws seeds of layers.
    try:
        copy = _rebuilt(model) or _reloaded(model)
    finally:
        random.setstate(state)
    if masked_layers(copy):
        copy = strip(copy)
    if inputs_of(copy) is None:
        copy(*examples(copy, 1, input_shape))  # Or it cannot be exported.
    return copy


def examples(model: keras.Model, batch_size: int, input_shape=None) -> list:
    """Arguments of a call of a model, made up.

    Args:
        model: A built model.
        batch_size: Examples, unless the model fixes it.
        input_shape: See `count_macs`.

    Returns:
        A list of arrays, or nested ones: one per argument.
    """
    rng = np.random.default_rng(0)
    specs = input_specs(model, input_shape)
    dtypes = [spec.dtype for spec in keras.tree.flatten(specs)]
    values = iter(input_values(model, dtypes))

    def array(spec):
        batch, *rest = spec.shape
        shape = (batch_size if batch == 1 else batch, *rest)
        return careful_input(shape, spec.dtype, rng, next(values))

    return keras.tree.map_structure(array, specs)


def _rebuilt(model):
    """A copy, in half the time, if all that is in the model are variables."""
    inner = plain(model)
    if type(inner) not in (keras.Sequential, Functional) or not all(
        type(layer).__module__.startswith("keras.")
        and not hasattr(layer, "adapt")  # These hold more than variables.
        and not float_kernels(layer)
        for layer in layers_in(inner)
    ):
        return None
    copy = type(inner).from_config(inner.get_config())
    pairs = list(zip(copy.variables, inner.variables, strict=False))
    if len(copy.variables) != len(inner.variables) or not all(
        one.path == other.path and one.shape == other.shape
        for one, other in pairs
    ):
        return None
    effective = EffectiveKernels(model)
    for one, other in pairs:
        one.assign(effective.value(other))
    return copy


def _reloaded(model):
    """A copy by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "copy.keras")
        model.save(path)
        # It was just written: what is in it was there before.
        return keras.saving.load_model(
            path,
            compile=False,
            safe_mode=False,
            custom_objects=foreign_classes(model),
        )
