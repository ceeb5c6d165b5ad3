"""Follows channels through the graph of a model, from inputs to outputs."""

import keras
from keras import tree

from keras_bimp._src.keras_internals.functional_graphs import Functional
from keras_bimp._src.keras_internals.functional_graphs import graph_of
from keras_bimp._src.keras_internals.functional_graphs import (
    inputs_of as graph_inputs_of,
)
from keras_bimp._src.keras_internals.functional_graphs import nodes_of
from keras_bimp._src.masking import Masked
from keras_bimp._src.masking import MaskedModel
from keras_bimp._src.shrinking.channel_rules import Barrier
from keras_bimp._src.shrinking.channel_rules import Call
from keras_bimp._src.shrinking.channel_rules import NotFollowedError
from keras_bimp._src.shrinking.channel_rules import Rule
from keras_bimp._src.shrinking.channels import Channels
from keras_bimp._src.shrinking.channels import Classes
from keras_bimp._src.shrinking.channels import Kept
from keras_bimp._src.shrinking.rule_lookup import rule_of


class Followed:
    """A model whose channels were followed from inputs to outputs.

    Args:
        model: A built Functional or Sequential model.

    Attributes:
        rules: `id` of each operation -> its `Rule`.
        inputs: `id` of each nested model -> the `Channels` of its inputs.
        classes: Which channels stay or go together.
    """

    def __init__(self, model: keras.Model):
        self.classes = Classes()
        self.rules: dict[int, Rule] = {}
        self.inputs: dict[int, list[Channels]] = {}
        self._calls = []
        self._masks = []
        self._closed = set(_closed(graph_of(model)))
        given = [self._new(x) for x in graph_of(model).inputs]
        self._outputs = self._through(model, given)
        for x in given:
            self.classes.keep_whole(x.numbers, "they are inputs of the model")
        for x in self._outputs:
            self.classes.keep_whole(x.numbers, "they are outputs of the model")

    def kept(self, align: int) -> Kept:
        """Finds which channels stay."""
        for x in [*self._outputs, *self._masks]:
            x.read[:] = True
        for rule, call in reversed(self._calls):
            rule.backward(call)
        tensors = {
            id(x): x
            for _, call in self._calls
            for x in [*call.inputs, *call.outputs]
        }
        kept = Kept(self.classes, list(tensors.values()))
        rules = [rule for rule in self.rules.values() if rule.calls]
        while True:
            grew = [kept.keep_at_least(x, 1) for x in tensors.values()]
            grew += [rule.demand(kept) for rule in rules]
            if any(grew):
                continue
            needs = [numbers for rule in rules for numbers in rule.needs(kept)]
            if needs:
                kept.keep_most_wanted(needs)
            elif not any([rule.align(kept, align) for rule in rules]):
                return kept

    def _through(self, model, given):
        graph = graph_of(model)
        first = self.inputs.setdefault(id(model), given)
        for a, b in zip(first, given, strict=True):
            if a is not b:
                self.classes.unite(a.numbers, b.numbers)
        known = {
            id(x): channels
            for x, channels in zip(graph.inputs, given, strict=True)
        }
        for node in nodes_of(graph):
            inputs = [known[id(x)] for x in node.input_tensors]
            outputs = self._call(node, inputs)
            for x, channels in zip(node.outputs, outputs, strict=True):
                known[id(x)] = channels
        return [known[id(x)] for x in graph.outputs]

    def _call(self, node, inputs):
        operation = inside(node.operation)
        if is_graph(operation) and id(operation) not in self._closed:
            known = {
                id(x): channels
                for x, channels in zip(node.input_tensors, inputs, strict=True)
            }
            given = inputs_of(node, graph_of(operation))
            return self._through(operation, [known[id(x)] for x in given])
        arguments = node.arguments.args, node.arguments.kwargs
        masks = {id(x) for x in tree.flatten(arguments[1].get("mask"))}
        given = []
        for x, channels in zip(node.input_tensors, inputs, strict=True):
            if id(x) in masks:
                self.classes.keep_whole(channels.numbers, "they are a mask")
                self._masks.append(channels)
            else:
                given.append((channels, tuple(x.shape)))
        call = Call([c for c, _ in given], [s for _, s in given], arguments)
        rule = self.rules.get(id(operation))
        if rule is None:
            rule = rule_of(operation, self.classes)
        try:
            if trains(node):
                raise NotFollowedError("it is called with `training=True`")
            if isinstance(rule, Barrier):
                raise NotFollowedError(rule.reason)
            rule.follow(call, len(node.outputs))
        except NotFollowedError as error:
            rule = self._barrier(operation, rule.calls, str(error))
            call.outputs = [self._new(x) for x in node.outputs]
            rule.add(call)
        self.rules[id(operation)] = rule
        self._calls.append((rule, call))
        return call.outputs

    def _barrier(self, operation, calls, reason):
        barrier = Barrier(operation, self.classes, reason)
        for call in calls:
            barrier.add(call)
        self._calls = [
            (barrier if any(call is c for c in calls) else rule, call)
            for rule, call in self._calls
        ]
        return barrier

    def _new(self, x):
        size = x.shape[-1] if len(x.shape) > 1 else None
        return Channels(self.classes.new(size or 0))


def is_graph(operation: keras.Operation) -> bool:
    """Whether an operation is a model that computes exactly its graph.

    A subclass of Functional does if it does not override `call`, as the
    backbones and tasks of KerasHub do not.
    """
    return (
        isinstance(operation, Functional | keras.Sequential)
        and type(operation).call in (Functional.call, keras.Sequential.call)
        and graph_of(operation) is not None
    )


def inside(operation: keras.Operation) -> keras.Operation:
    """Returns the operation, or the layer inside a masked one."""
    if isinstance(operation, MaskedModel):
        return operation.wrapper.layer
    return operation.layer if isinstance(operation, Masked) else operation


def trains(node) -> bool:
    """Whether a call in a graph always has `training=True`."""
    return node.arguments.kwargs.get("training") not in (None, False)


def _closed(graph):
    """Yields the `id` of nested models that cannot be followed.

    Some call has `training=True`, or arguments other than their inputs.
    """
    for node in nodes_of(graph):
        operation = inside(node.operation)
        if is_graph(operation):
            if trains(node) or inputs_of(node, graph_of(operation)) is None:
                yield id(operation)
            yield from _closed(graph_of(operation))


def inputs_of(node, graph: Functional) -> list | None:
    """Returns the tensors that a call passes to each input of a model.

    They are matched as in Keras: by name if a dictionary is passed to a model
    with a single input or a list, else by position, so that a tensor matches
    a list of one.

    Returns:
        Tensors in the order of `graph.inputs`; `None` if the call passes
        anything other than tensors, or more than the inputs.
    """
    if len(node.arguments.args) != 1:
        return None
    (given,) = node.arguments.args
    names = [x.name for x in graph.inputs]
    by_name = isinstance(given, dict) and not isinstance(
        graph_inputs_of(graph), dict
    )
    if by_name and set(given) != set(names):
        return None
    given = [given[n] for n in names] if by_name else tree.flatten(given)
    if (
        len(given) != len(graph.inputs)
        or len(given) != len(node.input_tensors)
        or not all(isinstance(x, keras.KerasTensor) for x in given)
    ):
        return None
    same = all(
        len(x.shape) == len(y.shape)
        for x, y in zip(given, graph.inputs, strict=True)
    )
    return given if same else None
