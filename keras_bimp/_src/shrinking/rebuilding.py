"""Rebuilds a model with fewer channels."""

import inspect
import operator
import tempfile

import keras
import numpy as np
from keras import tree

from keras_bimp._src.keras_internals.functional_graphs import inputs_of
from keras_bimp._src.keras_internals.functional_graphs import maker_of
from keras_bimp._src.keras_internals.functional_graphs import run_through
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.layers import states_of
from keras_bimp._src.keras_internals.saving import trusted_code
from keras_bimp._src.shrinking.channel_rules import Smaller
from keras_bimp._src.shrinking.channels import Kept
from keras_bimp._src.shrinking.following import Followed
from keras_bimp._src.shrinking.following import graph_of
from keras_bimp._src.shrinking.following import is_graph


def rebuild(model: keras.Model, followed: Followed, kept: Kept) -> keras.Model:
    """Builds a separate model that has only the channels that stay.

    Raises:
        ValueError: If a layer cannot be rebuilt from its config.
    """
    building = _Building(followed, kept)
    smaller = building.model(model)
    building.set_weights()
    return smaller


class _Building:
    def __init__(self, followed, kept):
        self._followed = followed
        self._kept = kept
        self._made = {}
        self._pairs = []

    def model(self, model):
        inputs = [
            self._input(x, channels)
            for x, channels in zip(
                graph_of(model).inputs,
                self._followed.inputs[id(model)],
                strict=True,
            )
        ]
        if isinstance(model, keras.Sequential):
            made = keras.Sequential(name=model.name)
            made.add(*inputs)
            for layer in model.layers:
                made.add(self.operation(layer))
        else:
            structure = tree.pack_sequence_as(inputs_of(model), inputs)
            outputs = run_through(model, structure, self.operation)
            made = keras.Model(structure, outputs, name=model.name)
        if not model.trainable:
            made.trainable = False
        return made

    def operation(self, operation):
        """Returns the shrunk operation, the same one at every call."""
        if id(operation) not in self._made:
            if is_graph(operation) and id(operation) in self._followed.inputs:
                made = self.model(operation)
            else:
                made = self._smaller(operation)
            self._made[id(operation)] = made
        return self._made[id(operation)]

    def set_weights(self):
        """Sets the weights of all layers once they are built."""
        for old, new, weights in self._pairs:
            if weights is None:
                _copy_weights(old, new)
                continue
            for name, array in weights.items():
                operator.attrgetter(name)(new).assign(array)

    def _smaller(self, operation):
        rule = self._followed.rules[id(operation)]
        change = rule.smaller(self._kept) if rule.calls else Smaller()
        config = change.config
        if change.weights is not None:
            config = {**_plain_initializers(operation), **config}
        made = _like(operation, config)
        if isinstance(operation, keras.Layer):
            self._pairs.append((operation, made, change.weights))
        return made

    def _input(self, x, channels):
        shape = list(x.shape)
        if channels.size:
            shape[-1] = int(self._kept.of(channels).sum())
        made = keras.Input(
            batch_shape=shape,
            dtype=x.dtype,
            sparse=x.sparse,
            name=maker_of(x).name,
        )
        made.name = x.name  # Clients of an exported model use this name.
        return made


def _plain_initializers(operation):
    """Replaces initializers that hold an array of the old size by zeros."""
    return {
        key: "zeros"
        for key in operation.get_config()
        if key.endswith("_initializer")
        and isinstance(
            getattr(operation, key, None), keras.initializers.Constant
        )
    }


def _like(operation, config):
    try:
        config = {**operation.get_config(), **config}
        # A function need not be registered, since it is already known.
        activation = getattr(operation, "activation", None)
        if "activation" in config and inspect.isfunction(activation):
            config["activation"] = activation
        # The code of a `Lambda` already runs in this process.
        with trusted_code():
            return type(operation).from_config(config)
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            "Every layer of `model` must be rebuildable from its config. "
            f"Received: {type(operation).__name__} "
            f"'{operation.name}', which failed with: {said[-1]}"
        ) from error


def _copy_weights(old, new):
    # As in saved files, to include any other state of a layer.
    for one, other in zip(layers_in(old), layers_in(new), strict=True):
        store = {}
        one.save_own_variables(store)
        other.load_own_variables(
            {name: np.asarray(value) for name, value in store.items()}
        )
        for state, copy in zip(states_of(one), states_of(other), strict=False):
            copy.assign(state)
        if hasattr(one, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                one.save_assets(folder)
                other.load_assets(folder)
