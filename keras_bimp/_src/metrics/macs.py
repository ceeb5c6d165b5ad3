"""Multiply-adds of a model, in total and without zeros."""

import collections
import math
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass

import keras

from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.metrics.effective_kernels import EffectiveKernels
from keras_bimp._src.metrics.layer_work import UnknownWorkError
from keras_bimp._src.metrics.layer_work import work_of
from keras_bimp._src.metrics.tracing import trace_calls


@dataclass(frozen=True)
class LayerMacs:
    """The multiply-adds of one layer for one example.

    Args:
        dense: With all entries of its kernels.
        nonzero: With the nonzero entries only.
        kernels: Path of each of its kernels -> (dense, nonzero).

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> (layer,) = keras_bimp.metrics.count_macs(model).layers.values()
    >>> layer.dense
    6
    """

    dense: int
    nonzero: int
    kernels: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Macs:
    """The multiply-adds of a model for one example.

    Args:
        dense: With all entries of the kernels.
        nonzero: With the nonzero entries only.
        layers: Path of each layer that has multiply-adds -> `LayerMacs`.
        unknown: Pairs of a layer's path and why it is not counted.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> macs = keras_bimp.metrics.count_macs(model)
    >>> macs.dense, macs.unknown
    (6, ())
    """

    dense: int
    nonzero: int
    layers: dict[str, LayerMacs]
    unknown: tuple[tuple[str, str], ...]


def count_macs(
    model: keras.Model,
    input_shape=None,
    rules: Mapping[type, Callable] | None = None,
) -> Macs:
    """Counts the multiply-adds that a model needs for one example.

    An entry of a kernel counts once for each output position, whatever the
    padding; in a transposed convolution, once for each input position. A
    shared layer counts as often as it runs, and a recurrent layer in every
    time step. Attention includes the products of its activations. Nothing else
    counts: no biases, normalization, activations, pooling or lookups. This is
    the usual convention in the literature, where it is often called FLOPs.

    The computation of a custom layer, such as a `Lambda`, is unknown: it is
    listed in `unknown`, and the layers that it calls are counted.

    Args:
        model: A built model: plain, wrapped or stripped.
        input_shape: Shape of the inputs with the batch first, such as
            `(None, 32, 32, 3)`, or a list or dict of shapes. If `call` of a
            subclass takes several arguments, a dict from arguments to shapes.
            Or a batch of examples to run the model on, if the work depends on
            values, such as the number of words in a text. Defaults to the
            shape that the model was built with. Counts are always for one
            example.
        rules: Class of layer -> callable that takes a `metrics.Call` of such a
            layer and returns its `metrics.Work`. They have precedence over the
            built-in rules.

    Returns:
        A `Macs`.

    Raises:
        TypeError: If `model` is not a Keras model, or `rules` is not such a
            mapping.
        ValueError: If `model` is not built, or `input_shape` is not known.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="first")]
    ... )
    >>> keras_bimp.metrics.count_macs(model).dense  # 3*3*3*4 * 6*6
    3888

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Appendix A.1 (theoretical speedup).
    """
    macs, _ = count_work(model, input_shape, rules)
    return macs


def count_work(
    model: keras.Model,
    input_shape=None,
    rules: Mapping[type, Callable] | None = None,
) -> tuple[Macs, dict[int, tuple[int, int]]]:
    """Counts multiply-adds as `count_macs`, and also by kernel.

    Returns:
        A `Macs`, and a dict from the `id` of each kernel that is used to its
        (dense, nonzero) multiply-adds.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model. Received: model={model!r}"
        )
    if not model.built:
        raise ValueError(
            "`model` must be built: add a `keras.Input`, or call it on a "
            f"batch of data. Received: model={model!r}"
        )
    rules = _check_rules(rules)
    calls, batch = trace_calls(model, input_shape)
    cells = _inside_recurrent(model)
    counted = _Counted(model)
    for call in calls:
        # Whether a loop calls its cell once or more depends on compilation.
        if id(call.operation) not in cells:
            counted.add(call, rules)
    return counted.macs(batch), counted.kernels(batch)


class _Counted:
    """Sums the work of calls."""

    def __init__(self, model):
        self._effective = EffectiveKernels(model)
        self._left = {}
        self._paths = {}
        self._seen = collections.Counter()
        self._layers = {}
        self._unknown = {}

    def add(self, call, rules):
        try:
            work = work_of(call, rules)
        except UnknownWorkError as error:
            self._unknown[self._path(call.operation)] = str(error)
            return
        if not work.uses and not work.own:
            return
        path = self._path(call.operation)
        layer = self._layers.setdefault(path, {"own": 0, "uses": {}})
        layer["own"] += work.own
        for variable, times in work.uses:
            uses = layer["uses"]
            _, before = uses.get(id(variable), (variable, 0))
            uses[id(variable)] = variable, before + times

    def _path(self, operation):
        if id(operation) not in self._paths:
            path = getattr(operation, "path", None) or operation.name
            self._paths[id(operation)] = _numbered(path, self._seen)
        return self._paths[id(operation)]

    def macs(self, batch):
        layers = {}
        for path, layer in self._layers.items():
            own = layer["own"] // batch
            seen = collections.Counter()
            kernels = {
                _numbered(variable.path, seen): (
                    times * self._effective.size(variable) // batch,
                    times * self._nonzero(variable) // batch,
                )
                for variable, times in layer["uses"].values()
            }
            layers[path] = LayerMacs(
                own + sum(dense for dense, _ in kernels.values()),
                own + sum(nonzero for _, nonzero in kernels.values()),
                kernels,
            )
        return Macs(
            sum(layer.dense for layer in layers.values()),
            sum(layer.nonzero for layer in layers.values()),
            layers,
            tuple(self._unknown.items()),
        )

    def kernels(self, batch):
        times = collections.Counter()
        variables = {}
        for layer in self._layers.values():
            for key, (variable, uses) in layer["uses"].items():
                times[key] += uses
                variables[key] = variable
        return {
            key: (
                times[key] * self._effective.size(variable) // batch,
                times[key] * self._nonzero(variable) // batch,
            )
            for key, variable in variables.items()
        }

    def _nonzero(self, variable):
        key = id(variable)
        if key not in self._left:
            self._left[key] = self._effective.nonzero(variable)
        return self._left[key]


def theoretical_speedup(model: keras.Model, input_shape=None) -> float:
    """Returns all multiply-adds divided by the nonzero ones.

    This is the speedup if time were proportional to multiply-adds, which it is
    not: see `keras_bimp.report` for measured times.

    Args:
        model: A built model: plain, wrapped or stripped.
        input_shape: See `count_macs`.

    Returns:
        A float >= 1; `inf` if no multiply-add is left.

    Raises:
        ValueError: If `count_macs` counts nothing in `model`.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.array([[0, 1], [2, 0], [0, 4]]), np.zeros(2)])
    >>> keras_bimp.metrics.theoretical_speedup(model)
    2.0

    Reference:

    - Blalock et al., "What is the State of Neural Network Pruning?", MLSys
      2020, Section 2.
    """
    counted = count_macs(model, input_shape)
    if not counted.dense:
        raise ValueError(
            "`model` must have a layer whose multiply-adds are counted. "
            f"Received: model={model!r}, not counted: {counted.unknown}"
        )
    if not counted.nonzero:
        return math.inf
    return counted.dense / counted.nonzero


def _check_rules(rules):
    rules = {} if rules is None else dict(rules)
    for kind, rule in rules.items():
        if not isinstance(kind, type) or not callable(rule):
            raise TypeError(
                "`rules` must map classes of layers to callables. "
                f"Received: {kind!r}: {rule!r}"
            )
    return rules


def _inside_recurrent(model):
    return {
        id(inner)
        for layer in layers_in(model)
        if isinstance(layer, keras.layers.RNN)
        for inner in layers_in(layer, include_self=False)
    }


def _numbered(path, seen):
    """The path, with a number if it was seen before."""
    seen[path] += 1
    return f"{path} ({seen[path]})" if seen[path] > 1 else path
