"""The masking wrapper layer."""

import contextlib
import gc
import weakref
from collections.abc import Iterable

import keras
from keras import ops
from keras import tree

from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import eager_on_torch
from keras_bimp._src.backends import outside_graphs
from keras_bimp._src.backends import put_back
from keras_bimp._src.checks import check_choice
from keras_bimp._src.keras_internals.layers import adopt_signature
from keras_bimp._src.keras_internals.layers import in_stateless_scope
from keras_bimp._src.keras_internals.layers import is_training
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.layers import more_variables
from keras_bimp._src.keras_internals.layers import own_metrics
from keras_bimp._src.keras_internals.layers import own_variables
from keras_bimp._src.keras_internals.layers import share_layout
from keras_bimp._src.keras_internals.layers import sort_own_variables
from keras_bimp._src.keras_internals.layers import states_of
from keras_bimp._src.masking.holding import regularize_what_is_left
from keras_bimp._src.masking.mask_rules import Hard
from keras_bimp._src.masking.mask_rules import Rule
from keras_bimp._src.masking.masked_kernels import Inside
from keras_bimp._src.masking.prunable import Kernel

MASKS = ("ones", "nonzero")

_LIVE = weakref.WeakSet()


@keras.saving.register_keras_serializable(package="keras_bimp")
class Masked(keras.layers.Wrapper):
    """Wrapper that masks every prunable kernel of a layer or model.

    The inner layer is called in a `keras.StatelessScope` in which each kernel
    has its effective value. Neither the layer nor its variables change, so any
    layer works. Most users only need `wrap(model)`. Use `Masked` inside a
    model to prune part of it, or to keep the model's class.

    Args:
        layer: The layer or model to mask. It is built with the wrapper if it
            is not built yet.
        rule: A `Rule`, which computes the effective kernels. Defaults to hard
            pruning, `Hard()`.
        filters: Which inner layers to mask: a regex or list of regexes
            searched in the layer's name and path, or a callable layer -> bool.
            Defaults to all.
        exclude: Which inner layers not to mask, in the same form. Defaults to
            none.
        initial_masks: `"ones"`, or `"nonzero"` to freeze the current zeros of
            the kernels.
        **kwargs: Arguments of `keras.layers.Wrapper`, such as `name`.

    Raises:
        TypeError: If `rule` is not a `Rule`.
        ValueError: If `initial_masks` is not one of the two.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8,)),
    ...         keras_bimp.Masked(keras.layers.Dense(4)),
    ...         keras.layers.Dense(1),
    ...     ]
    ... )
    >>> keras_bimp.prune(model, 0.5).counts
    {'sequential/dense/kernel': 16}
    """

    def __init__(
        self,
        layer: keras.Layer,
        *,
        rule: Rule | None = None,
        filters=None,
        exclude=None,
        initial_masks: str = "ones",
        _indices: list[int] | None = None,
        _frozen: list[int] | None = None,
        **kwargs,
    ):
        # `autocast=False`: each inner layer casts by its own policy.
        super().__init__(layer, autocast=False, **kwargs)
        rule, filters, exclude = (
            keras.saving.deserialize_keras_object(given)
            if isinstance(given, dict)
            else given
            for given in (rule, filters, exclude)
        )
        if rule is not None and not isinstance(rule, Rule):
            raise TypeError(
                "`rule` must be an instance of `keras_bimp.masking.Rule`. "
                f"Received: rule={rule!r}"
            )
        check_choice("initial_masks", initial_masks, MASKS)
        self.rule = Hard() if rule is None else rule
        self.filters = filters
        self.exclude = exclude
        self.initial_masks = initial_masks
        # From a config: positions in `layer.weights` of the masked kernels
        # (instead of `filters`) and of those to mask once trainable.
        self.indices = _indices
        self.frozen = _frozen
        self.was_trained = False
        self.supports_masking = True
        self.supports_jit = layer.supports_jit
        adopt_signature(self, layer)
        self.masks = []
        self._inside = None
        if layer.built:
            self.build()

    def build(self, input_shape=None):
        if self._inside:
            return
        super().build(input_shape)
        self._inside = Inside(self)
        for kernel, rule in zip(self.kernels, self.rules, strict=True):
            self._add_mask(kernel, rule)
        _LIVE.add(self)

    def _add_mask(self, kernel, rule):
        """Create the mask and rule variables of a kernel as attributes.

        TensorFlow checkpoints save only attributes and identify them by name.
        """
        mask = self.add_weight(
            shape=kernel.variable.shape,
            initializer="ones",
            dtype="bool",
            trainable=False,
            autocast=False,
            name=kernel.path.replace("/", "_") + "_mask",
        )
        share_layout(kernel.variable, mask)
        if self.initial_masks == "nonzero":
            # In NumPy, because backends treat subnormal numbers as 0.
            mask.assign(as_array(kernel.variable, copy=False) != 0)
        if rule.hard:
            regularize_what_is_left(kernel.variable, mask)
        self.masks.append(mask)
        position = self._inside.position_of(kernel.variable)
        setattr(self, f"_mask_of_{position}", mask)
        others = {id(v) for v in own_variables(self)}
        rule.build(self, kernel.variable)
        made = [v for v in own_variables(self) if id(v) not in others]
        for i, variable in enumerate(made):
            setattr(self, f"_rule_{i}_of_{position}", variable)
        self._inside.put(position, mask, *made)

    def mask_unfrozen(self):
        """Mask kernels that were frozen and are now trainable.

        Called on each call of the layer and each access to its variables.
        """
        if not self._inside or not self._inside.unfrozen():
            return
        if in_stateless_scope():
            return  # Variables cannot be created here.
        with more_variables(self), outside_graphs():
            for kernel, rule in self._inside.take_unfrozen():
                self._add_mask(kernel, rule)
        # As if none had been frozen, since variables are saved by position.
        order = self._inside.sort()
        self.masks = [self.masks[i] for i in order]
        sort_own_variables(self, key=self._inside.position_of)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The masked kernels, in the order of `masks`."""
        return self._inside.kernels if self._inside else ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """One copy of the rule per kernel, in the order of `masks`."""
        return self._inside.rules if self._inside else ()

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Pairs (path, reason) for kernels that are not masked."""
        return self._inside.skipped if self._inside else ()

    @property
    def variables(self) -> list[keras.Variable]:
        """Variables of the inner layer, and masks of its trainable kernels."""
        self.mask_unfrozen()
        return super().variables

    @property
    def metrics(self) -> list[keras.Metric]:
        """Metrics of the inner layers, except those passed to `compile`."""
        return [m for x in layers_in(self.layer) for m in own_metrics(x)]

    def __call__(self, *args, **kwargs):
        if not self.layer.built:
            args_specs, kwargs_specs = tree.map_structure(
                _as_keras_tensor, (args, kwargs)
            )
            self.layer(*args_specs, **kwargs_specs)
        self.mask_unfrozen()
        return super().__call__(*args, **kwargs)

    @eager_on_torch
    def call(self, *args, **kwargs):
        training = is_training(self)
        if training and not self.was_trained:
            self.was_trained = True
        with self.scope(training=training) as scope:
            outputs = self.layer(*args, **kwargs)
        raw = [kernel.variable.value for kernel in self.kernels]
        losses = [*scope.losses, *type(self.rule).losses(self.rules, raw)]
        losses = [ops.sum(loss) for loss in losses if loss is not None]
        if losses:
            # A new tensor, or Keras would count the inner one twice.
            self.add_loss(sum(losses))
        return outputs

    @contextlib.contextmanager
    def scope(self, also: Iterable[keras.Variable] = (), training=False):
        """Open a scope in which the kernels have their effective values.

        Args:
            also: Further variables that are used inside.
            training: Whether to use the values for training.

        Yields:
            The `keras.StatelessScope`.
        """
        raw = [kernel.variable.value for kernel in self.kernels]
        effective = type(self.rule).effective_kernels(
            self.rules, raw, self.masks, training
        )
        pairs = [
            (kernel.variable, value)
            for kernel, value in zip(self.kernels, effective, strict=True)
        ]
        if in_stateless_scope():
            # A nested scope cannot see the outer one, so pass it every
            # variable's current value.
            masked = {id(variable) for variable, _ in pairs}
            pairs += [
                (variable, variable.value)
                for variable in self._used_inside(also)
                if id(variable) not in masked
            ]
        scope = keras.StatelessScope(pairs, collect_losses=True)
        before = dict(scope.state_mapping)
        with scope:
            yield scope
        updates = {
            key: value
            for key, value in scope.state_mapping.items()
            if value is not before.get(key)
        }
        if updates:
            for variable in self._used_inside(also):
                if id(variable) in updates:
                    variable.assign(updates[id(variable)])

    def _used_inside(self, also):
        return [*state_variables(self.layer), *self.metrics_variables, *also]

    def compute_output_spec(self, *args, **kwargs):
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args, **kwargs):
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, inputs, previous_mask):
        return self.layer.compute_mask(inputs, previous_mask)

    @contextlib.contextmanager
    def final_kernels(self):
        """Give the inner layer the kernels that `strip` would leave."""
        variables = [kernel.variable for kernel in self.kernels]
        with put_back(variables):
            for variable, mask, rule in zip(
                variables, self.masks, self.rules, strict=True
            ):
                variable.assign(rule.final_kernel(variable.value, mask.value))
            yield

    def get_config(self):
        self.mask_unfrozen()
        indices, frozen = self.indices, self.frozen
        if self._inside:
            indices = self._inside.positions(self.kernels)
            frozen = self._inside.positions(self._inside.waiting)
        config = {
            "rule": keras.saving.serialize_keras_object(self.rule),
            "initial_masks": self.initial_masks,
            "_indices": indices,
            "_frozen": frozen,
        }
        if indices is None:
            config["filters"] = self.filters
            config["exclude"] = self.exclude
        config = {**super().get_config(), **config}
        # Only the model around this layer is compiled.
        config["layer"].pop("compile_config", None)
        return config


def _as_keras_tensor(x):
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return keras.KerasTensor(
            x.shape, keras.backend.standardize_dtype(x.dtype)
        )
    return x


def state_variables(layer: keras.Layer) -> list[keras.Variable]:
    """Return all variables of a layer, including those Keras does not list."""
    variables = layer.variables
    for inner in layers_in(layer):
        variables += states_of(inner)
    return list({id(v): v for v in variables}.values())


def others_that_mask(
    kernel: keras.Variable, masks: list[Masked]
) -> list[Masked]:
    """Return other `Masked` layers that also mask a kernel.

    Layers of stripped models do not count.
    """

    def find():
        return [
            masked
            for masked in list(_LIVE)
            if all(masked is not one for one in masks)
            and any(one.variable is kernel for one in masked.kernels)
        ]

    if not find():
        return []
    gc.collect()  # An unreferenced wrapper may still be alive.
    return find()


def forget(masked: Masked) -> None:
    """Stop counting a stripped layer in `others_that_mask`."""
    _LIVE.discard(masked)


def masked_layers(model: keras.Layer) -> list[Masked]:
    """Return all `Masked` layers in a model, at any depth."""
    return [x for x in layers_in(model) if isinstance(x, Masked)]
