"""The mask-wrapping layer."""

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
    """Puts a mask over every kernel of a layer, whatever the layer is.

    The layer, or a whole model, is called inside one `keras.StatelessScope`
    in which each kernel has its effective value, so that neither the layer nor
    its variables are changed, and any layer works. `wrap(model)` is all that
    most users need; use `Masked` inside a model to prune a part of it, or
    where the model must keep its own class.

    Args:
        layer: The layer or model to mask. Built with the wrapper if it is not
            built yet.
        rule: A `Rule`, what the kernels compute with. Defaults to hard
            pruning, `Hard()`.
        filters: Which layers inside to mask: a regex or list of regexes
            searched in the layer's name and path, or a callable layer -> bool.
            Defaults to all.
        exclude: Which of them not to mask, said in the same way.
        initial_masks: `"ones"`, or `"nonzero"`, which freezes the zeros that
            the kernels have today.
        **kwargs: Those of `keras.layers.Wrapper`, such as `name`.

    Raises:
        TypeError: If `rule` is no `Rule`.
        ValueError: If `initial_masks` is none of the two.

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
        # Positions in `layer.weights` of what is masked, in place of `filters`,
        # and of what is to be once it is trainable: those of a config.
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
        """Makes the variables of a kernel, each of them an attribute.

        Checkpoints of TensorFlow hold variables that are one, and know them by
        its name.
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
            # In NumPy: backends take subnormal numbers for 0.
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
        """Masks kernels that were frozen and are trainable now.

        Called whenever the layer is, or its variables are asked for.
        """
        if not self._inside or not self._inside.unfrozen():
            return
        if in_stateless_scope():
            return  # No variable can be made here.
        with more_variables(self), outside_graphs():
            for kernel, rule in self._inside.take_unfrozen():
                self._add_mask(kernel, rule)
        # As if none had been frozen: variables are saved by position.
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
        """Pairs of a path and a reason: kernels that are not masked."""
        return self._inside.skipped if self._inside else ()

    @property
    def variables(self) -> list[keras.Variable]:
        """Those of the layer inside, and the masks of what is trainable."""
        self.mask_unfrozen()
        return super().variables

    @property
    def metrics(self) -> list[keras.Metric]:
        """Metrics of the layers inside, but not those a model compiled."""
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
            # A new tensor: Keras would count the inner one twice.
            self.add_loss(sum(losses))
        return outputs

    @contextlib.contextmanager
    def scope(self, also: Iterable[keras.Variable] = (), training=False):
        """A scope in which the kernels have their effective values.

        Args:
            also: Variables that are not of the layer, and are used inside.
            training: Whether the values are those for training.

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
            # A nested scope sees nothing of an outer one: every variable gets
            # its current value here.
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
        """Has the layer inside hold what `strip` would leave, for a while."""
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
        # The model around it is the one that is compiled.
        config["layer"].pop("compile_config", None)
        return config


def _as_keras_tensor(x):
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return keras.KerasTensor(
            x.shape, keras.backend.standardize_dtype(x.dtype)
        )
    return x


def state_variables(layer: keras.Layer) -> list[keras.Variable]:
    """All variables of a layer or model, also those Keras does not list."""
    variables = layer.variables
    for inner in layers_in(layer):
        variables += states_of(inner)
    return list({id(v): v for v in variables}.values())


def others_that_mask(
    kernel: keras.Variable, masks: list[Masked]
) -> list[Masked]:
    """The layers but some that have a mask over a kernel too.

    Those of models that were stripped do not count.
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
    gc.collect()  # A model that is wrapped again, and that nobody holds.
    return find()


def forget(masked: Masked) -> None:
    """Lets a layer that was stripped no longer count."""
    _LIVE.discard(masked)


def masked_layers(model: keras.Layer) -> list[Masked]:
    """All `Masked` layers in a model, however deep."""
    return [x for x in layers_in(model) if isinstance(x, Masked)]
