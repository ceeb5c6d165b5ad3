"""`strip` takes the masks off a model."""

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
    """Takes the masks off: the plain Keras model with zeros in place.

    For a model made by `wrap` this is the very model that was given to `wrap`.
    A Functional or Sequential model with `Masked` layers inside is rebuilt
    around the same inner layers. In a model of your own class, strip each
    `Masked` layer, and make a new object of the class from what is returned.

    Args:
        model: A model made by `wrap`, or with `Masked` layers inside, or one
            `Masked` layer.

    Returns:
        A `keras.Model` that holds no class of keras_bimp; of a `Masked` layer
        the layer inside. If `model` was
        compiled, it is compiled with the same loss and metrics, so that
        `evaluate` works, and with a plain SGD: compile it again to train it.

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
        # SGD without momentum has no slots: nothing dense in a saved file.
        compile_like(plain, model, keras.optimizers.SGD(), scale=True)
        plain.optimizer.build(plain.trainable_variables)
    return plain


def masked_kernels(
    model: keras.Layer,
) -> tuple[tuple[Kernel, ...], tuple[tuple[str, str], ...]]:
    """The kernels of a model that have a mask, or had one before `strip`.

    Returns:
        These kernels, and pairs (path, reason) of those left alone.
    """
    found = masked_layers(model)
    if not found:
        record = record_of(model)
        # Weakly: a layer that owns its kernel may be the model itself.
        pairs = ((variable, layer()) for variable, layer in record.masked)
        kernels = (Kernel(*pair) for pair in pairs)
        return tuple(map(as_it_is_now, kernels)), record.skipped
    return (
        tuple(kernel for masked in found for kernel in masked.kernels),
        tuple(pair for masked in found for pair in masked.skipped),
    )


def _note(model, plain):
    """Has the record of what `strip` returns say what was masked."""
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
            f"all the way to its `Masked` layers. Received: model={model!r}. "
            "In a class of your own, replace each `Masked` layer by "
            "`keras_bimp.strip(layer)`, in a new object of the class"
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
    """A wrapper of Keras' kind, as `TimeDistributed`, around a plain layer."""
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
