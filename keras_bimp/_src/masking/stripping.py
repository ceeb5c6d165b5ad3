"""`strip` removes the masks from a model."""

import weakref

import keras

from keras_bimp._src.keras_internals.functional_graphs import Functional
from keras_bimp._src.keras_internals.layers import own_variables
from keras_bimp._src.masking.compiled_alike import compile_like
from keras_bimp._src.masking.holding import release
from keras_bimp._src.masking.masked import Masked
from keras_bimp._src.masking.masked import forget
from keras_bimp._src.masking.masked import masked_layers
from keras_bimp._src.masking.prunable import Kernel
from keras_bimp._src.masking.prunable import as_it_is_now
from keras_bimp._src.masking.wrapping import MaskedModel
from keras_bimp._src.masking.wrapping import is_kerass_own
from keras_bimp._src.model_record import record_of


def strip(model: keras.Model) -> keras.Model:
    """Remove the masks and return the plain Keras model with its zeros.

    For a model made by `wrap`, this returns the model object that was passed
    to `wrap`. A Functional or Sequential model with `Masked` layers inside is
    rebuilt around the same inner layers. In a subclassed model, strip each
    `Masked` layer and build a new model from the results.

    Args:
        model: A model made by `wrap`, a model with `Masked` layers inside, or
            a single `Masked` layer.

    Returns:
        A `keras.Model` without keras_bimp classes, or the inner layer of a
        `Masked` layer. If `model` was compiled, the result is compiled with
        the same loss and metrics, so that `evaluate` works, and with plain
        SGD. Compile it again before training.

    Raises:
        ValueError: If there is nothing to strip.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> keras_bimp.strip(keras_bimp.wrap(model)) is model
    True
    """
    found = masked_layers(model) if isinstance(model, keras.Layer) else []
    if not found:
        raise ValueError(
            "`model` must be a model made by `keras_bimp.wrap`, or with "
            f"`keras_bimp.Masked` layers inside. Received: model={model!r}"
        )
    if isinstance(model, MaskedModel):
        plain = model.wrapper.layer
    elif isinstance(model, Masked):
        plain = model.layer
    else:
        plain = _without_masked(model)
    _note(model, plain)
    for masked in found:
        for kernel, mask, rule in zip(
            masked.kernels, masked.masks, masked.rules, strict=True
        ):
            variable = kernel.variable
            variable.assign(rule.final_kernel(variable.value, mask.value))
            release(variable)
        forget(masked)
    if getattr(model, "compiled", False):
        # SGD without momentum has no slots, so no dense ones are saved.
        compile_like(plain, model, keras.optimizers.SGD(), scale=True)
        plain.optimizer.build(plain.trainable_variables)
    return plain


def masked_kernels(
    model: keras.Layer,
) -> tuple[tuple[Kernel, ...], tuple[tuple[str, str], ...]]:
    """Return the kernels that are masked, or were masked before `strip`.

    Returns:
        The kernels, and pairs (path, reason) for the unmasked ones.
    """
    found = masked_layers(model)
    if not found:
        record = record_of(model)
        # A weak reference, because the owning layer may be the model itself.
        pairs = ((variable, layer()) for variable, layer in record.masked)
        kernels = (Kernel(*pair) for pair in pairs)
        return tuple(map(as_it_is_now, kernels)), record.skipped
    return (
        tuple(kernel for masked in found for kernel in masked.kernels),
        tuple(pair for masked in found for pair in masked.skipped),
    )


def _note(model, plain):
    """Record on the stripped model which kernels were masked."""
    kernels, skipped = masked_kernels(model)
    record = record_of(plain)
    record.masked = tuple(
        (kernel.variable, weakref.ref(kernel.layer)) for kernel in kernels
    )
    record.skipped = skipped
    if record is not record_of(model):
        record.progress = record_of(model).progress


def _without_masked(model):
    plain = None
    if isinstance(model, keras.Sequential | Functional) and is_kerass_own(
        type(model).call
    ):
        plain = _cloned(model)
    if plain is None or masked_layers(plain):
        raise ValueError(
            "`model` must be made by `wrap`, or be Sequential or Functional "
            f"at every level above its `Masked` layers. Received: "
            f"model={model!r}. In a subclassed model, replace each `Masked` "
            "layer by `keras_bimp.strip(layer)`, in a new object of the class"
        )
    return plain


def _cloned(model):
    return keras.models.clone_model(
        model, clone_function=_unmasked, recursive=True
    )


def _unmasked(layer):
    if isinstance(layer, MaskedModel):
        return layer.wrapper.layer
    if isinstance(layer, Masked):
        return layer.layer
    if isinstance(layer, keras.layers.Wrapper) and masked_layers(layer):
        return _wrapper_of_plain(layer)
    return layer


def _wrapper_of_plain(wrapper):
    """Rebuild a Keras wrapper, such as `TimeDistributed`, on a plain layer."""
    inner = wrapper.layer
    if isinstance(inner, keras.Sequential | Functional):
        inner = _cloned(inner)
    config = wrapper.get_config()
    config.pop("layer")
    plain = type(wrapper)(_unmasked(inner), **config)
    plain.build_from_config(wrapper.get_build_config())
    own = zip(own_variables(plain), own_variables(wrapper), strict=True)
    for variable, old in own:
        variable.assign(old)
    return plain
