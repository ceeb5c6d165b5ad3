"""`wrap` masks a model; `strip` removes the masks again."""

import keras

from keras_bimp._src.backends import compile_anew
from keras_bimp._src.backends import count_nonzero
from keras_bimp._src.backends import strategy_scope
from keras_bimp._src.fitting import run_fit
from keras_bimp._src.keras_internals.layers import adopt_signature
from keras_bimp._src.keras_internals.layers import is_outermost_call
from keras_bimp._src.keras_internals.trainer import QuickSteps
from keras_bimp._src.keras_internals.trainer import SavedWithSignature
from keras_bimp._src.keras_internals.trainer import input_signature
from keras_bimp._src.masking.compiled_alike import compile_like
from keras_bimp._src.masking.compiled_alike import reset_given_metrics
from keras_bimp._src.masking.hdf5 import refuse_hdf5_config
from keras_bimp._src.masking.hdf5 import refuse_hdf5_path
from keras_bimp._src.masking.holding import hold_zeros
from keras_bimp._src.masking.holding import kernels_to_hold
from keras_bimp._src.masking.mask_rules import Rule
from keras_bimp._src.masking.masked import Masked
from keras_bimp._src.masking.masked import masked_layers
from keras_bimp._src.masking.prunable import as_filter
from keras_bimp._src.masking.tasks import as_not_compiled
from keras_bimp._src.masking.tasks import check_trainer
from keras_bimp._src.masking.tasks import class_around
from keras_bimp._src.model_record import share_record
from keras_bimp._src.name_lists import listed
from keras_bimp._src.slots import zero_pruned
from keras_bimp._src.strategies import check_strategy

_OF_THE_MODEL_INSIDE = (
    "input",
    "inputs",
    "input_names",
    "input_shape",
    "output",
    "outputs",
    "output_names",
    "output_shape",
)


@keras.saving.register_keras_serializable(package="keras_bimp")
class MaskedModel(QuickSteps, SavedWithSignature, keras.Model):
    """Model around one `Masked`. Created by `wrap`, undone by `strip`.

    Args:
        masked: A built `Masked` around a model.
    """

    def __init__(self, masked: Masked, **kwargs):
        if not isinstance(masked, Masked):
            raise TypeError(
                "`masked` must be a `keras_bimp.Masked`. "
                f"Received: masked={masked!r}"
            )
        model = masked.layer
        kwargs = {"dtype": model.dtype_policy, "name": model.name, **kwargs}
        # Not the `__init__` of a task, which would create its own layers.
        keras.Model.__init__(self, autocast=False, **kwargs)
        # Keras saves attributes in order of their names: the optimizer, which
        # the inner model may share, must come before this one.
        self.wrapper = masked
        share_record(self, model)
        self.supports_jit = model.supports_jit
        adopt_signature(self, model)
        self.built = True

    def call(self, *args, **kwargs):
        casts = self.compute_dtype != self.variable_dtype
        if casts or not is_outermost_call(self):
            return self.wrapper(*args, **kwargs)
        # Without its `__call__`, which would repeat what Keras did just now.
        self.wrapper.mask_unfrozen()
        return self.wrapper.call(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        return self.wrapper.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args, **kwargs):
        return self.wrapper.compute_output_shape(*args, **kwargs)

    def fit(self, *args, **kwargs):
        """Train like `keras.Model.fit`; refuse unsupported strategies."""
        check_strategy(self)
        with strategy_scope(self):
            self.wrapper.mask_unfrozen()
        self._hold_zeros()
        return run_fit(self, super().fit, args, kwargs)

    def _hold_zeros(self):
        """Hold pruned weights at 0, even where a mask was loaded or set."""
        hard = [
            (kernel.variable, mask)
            for kernel, mask, rule in zip(
                self.wrapper.kernels,
                self.wrapper.masks,
                self.wrapper.rules,
                strict=True,
            )
            if rule.hard
        ]
        dense = all(
            count_nonzero(mask.value) == kernel.size
            for kernel, mask in zip(
                self.wrapper.kernels, self.wrapper.masks, strict=True
            )
        )
        optimizer = None if dense else self.optimizer
        if hold_zeros(kernels_to_hold(hard, optimizer)):
            compile_anew(self)

    def reset_metrics(self):
        """Reset all metrics, including in the first epoch."""
        reset_given_metrics(self)
        super().reset_metrics()

    def build(self, *args, **kwargs):
        """Do nothing: `wrap` takes built models only."""

    @property
    def layers(self) -> list[keras.Layer]:
        """The layers of the inner model, so that `get_layer` finds them."""
        return self.wrapper.layer.layers

    def __getattr__(self, name):
        # Keras uses these to name the losses and metrics of several outputs.
        if name in _OF_THE_MODEL_INSIDE:
            return getattr(self.wrapper.layer, name)
        # On torch a layer is a module, which looks up its parts this way.
        inherited = getattr(super(), "__getattr__", super().__getattribute__)
        return inherited(name)

    def save(self, filepath, *args, **kwargs):
        """Save like `keras.Model.save`, in a format that holds masks."""
        refuse_hdf5_path(filepath)
        super().save(filepath, *args, **kwargs)

    def export(self, *args, **kwargs):
        """Export the stripped model, like `keras.Model.export`."""
        with self.wrapper.final_kernels():
            return self.wrapper.layer.export(*args, **kwargs)

    def save_signature(self):
        """Return the serving signature for `tf.saved_model.save`."""
        # Keras knows the signature of its own classes only.
        import tensorflow as tf

        @tf.function(input_signature=input_signature(self.wrapper.layer))
        def serving_default(inputs):
            return self(inputs)

        return serving_default

    def quantize(self, *args, **kwargs):
        """Raise an error: prune, strip, and then quantize."""
        raise ValueError(
            "A wrapped model cannot be quantized. Strip it first: "
            f"`keras_bimp.strip(model).quantize(...)`. Received: {self!r}"
        )

    def summary(self, *args, **kwargs):
        """Print the summary of the inner model and its sparsity."""
        self.wrapper.layer.summary(*args, **kwargs)
        total = sum(kernel.size for kernel in self.wrapper.kernels)
        left = sum(count_nonzero(mask.value) for mask in self.wrapper.masks)
        line = (
            f" Masked weights: {total:,} in {len(self.wrapper.kernels)} "
            f"kernels, {left:,} left (sparsity {1 - left / total:.2%})"
        )
        (kwargs.get("print_fn") or print)(line)

    def get_config(self):
        refuse_hdf5_config()
        return {
            "name": self.name,
            "trainable": self.trainable,
            "masked": keras.saving.serialize_keras_object(self.wrapper),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {**config}
        masked = keras.saving.deserialize_keras_object(
            config.pop("masked"), custom_objects=custom_objects
        )
        if not isinstance(masked, Masked):
            raise ValueError(
                "`masked` must be the config of a `Masked` layer. "
                f"Received: masked={masked!r}"
            )
        as_not_compiled(masked.layer)
        return class_around(masked.layer, MaskedModel)(masked, **config)


def wrap(
    model: keras.Model,
    *,
    rule: Rule | None = None,
    filters=None,
    exclude=None,
    initial_masks: str = "ones",
) -> keras.Model:
    """Wrap a model so that every prunable kernel has a mask.

    The result has the same variables and outputs. A compiled model stays
    compiled, with the same loss, metrics and optimizer object, so its slots
    and iterations are kept. Two things change in `model` itself. Until
    `strip`, a kernel regularizer that looks at all weights together sees only
    the remaining ones. With `initial_masks="nonzero"`, the optimizer slots of
    the zeros are reset, because momentum would move them.

    A variable is prunable if it is trainable, has rank 2 or more, and its name
    ends in "kernel". This covers dense, convolutional, recurrent, attention
    and custom layers; a shared layer counts once. The table of an `Embedding`
    is prunable only if `filters` is given and matches it. Biases and
    normalization parameters are never prunable. Frozen layers are left
    unchanged.

    Args:
        model: A built `keras.Model`: Sequential, Functional or subclassed.
        rule: A `Rule`, which computes the effective kernels. Defaults to hard
            pruning. If it adds trainable variables, a compiled model gets a
            fresh optimizer with the same configuration.
        filters: Which layers to prune: a regex or list of regexes searched in
            the layer's name and path, or a callable layer -> bool. Defaults to
            all.
        exclude: Which layers not to prune, in the same form as `filters`.
            Defaults to none.
        initial_masks: `"ones"`, or `"nonzero"` to freeze the current zeros of
            the kernels, so that a sparse model can be fine-tuned without a
            callback.

    Returns:
        A `keras.Model` around one `Masked`.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If `model` is not built, is already wrapped, has nothing to
            prune, is quantized, or has a custom training loop, which would be
            lost. KerasHub tasks are supported: `fit` still preprocesses, and
            `generate` generates with masks.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> wrapped = keras_bimp.wrap(model)
    >>> keras_bimp.sparsity(wrapped)
    Sparsity(prunable=0.0, total=0.0)
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a keras.Model; to mask a single layer, use "
            f"`keras_bimp.Masked(layer)`. Received: model={model!r}"
        )
    if not model.built:
        raise ValueError(
            "`model` must be built: give it a `keras.Input`, call "
            "`model.build(input_shape)`, or call it on a batch of data. "
            f"Received: model={model!r}, which has no weights yet"
        )
    if masked_layers(model):
        raise ValueError(
            "`model` must not be wrapped already. "
            f"Received: model={model!r}, which holds a `Masked` layer"
        )
    check_trainer(model)
    as_filter(filters)
    as_filter(exclude, name="exclude")
    with strategy_scope(model):
        return _wrap(
            model,
            rule=rule,
            filters=filters,
            exclude=exclude,
            initial_masks=initial_masks,
        )


def _wrap(model, **arguments):
    masked = Masked(model, **arguments)
    if not masked.kernels:
        skipped = (f"{path}: {why}" for path, why in masked.skipped)
        reasons = listed(skipped, "; ")
        raise ValueError(
            "`model` must have something to prune: a trainable weight of rank "
            "2 or more whose name ends in 'kernel'. "
            f"Received: model={model!r}, filters={arguments['filters']!r}, "
            f"exclude={arguments['exclude']!r}. "
            f"Left out: {reasons or 'nothing'}"
        )
    wrapped = class_around(model, MaskedModel)(masked)
    if (
        masked.initial_masks == "nonzero"
        and masked.rule.hard
        and model.compiled
    ):
        # Momentum would move them, so reset it.
        kernels = [kernel.variable for kernel in masked.kernels]
        zero_pruned(kernels, masked.masks, model.optimizer)
    if model.compiled:
        own = [v for v in masked.trainable_variables if _is_own(v, model)]
        compile_like(
            wrapped,
            model,
            _optimizer_for(model, fresh=bool(own)),
            share_metrics=True,
        )
    return wrapped


def _is_own(variable, model):
    return all(variable is not v for v in model.variables)


def _optimizer_for(model, fresh):
    optimizer = model.optimizer
    if not fresh or optimizer is None:
        return optimizer
    print(
        "keras_bimp.wrap: the rule adds trainable variables, so the model "
        "gets a fresh optimizer."
    )
    return type(optimizer).from_config(optimizer.get_config())


def is_kerass_own(method) -> bool:
    """Return whether Keras defines a method."""
    return method.__module__.partition(".")[0] == "keras"
