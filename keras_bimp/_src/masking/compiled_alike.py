"""Compile one model like another."""

import keras
import numpy as np
from keras import ops
from keras import tree

from keras_bimp._src.backends import strategy_scope
from keras_bimp._src.keras_internals.layers import TRACKING
from keras_bimp._src.keras_internals.trainer import compile_config_of
from keras_bimp._src.keras_internals.trainer import lists_its_metrics
from keras_bimp._src.masking.tasks import compile_as_keras_does


def compile_like(
    target: keras.Model,
    source: keras.Model,
    optimizer: keras.optimizers.Optimizer | None,
    scale: bool = False,
    share_metrics: bool = False,
) -> None:
    """Compile `target` with the loss and metrics of `source`.

    Args:
        target: The model to compile.
        source: A compiled model.
        optimizer: The optimizer of `target`.
        scale: Whether Keras may wrap the optimizer for mixed precision.
        share_metrics: Whether `target` replaces `source` and takes over its
            metric objects. Otherwise it gets copies with the same state. A
            metric that cannot be copied is shared and reset.
    """
    config = dict(compile_config_of(source))
    config["optimizer"] = optimizer
    config["jit_compile"] = source.jit_compile
    if not share_metrics:
        with strategy_scope(source):
            config.update(_copied(config))
    compile_as_keras_does(target, source, **config, auto_scale_loss=scale)
    reset_given_metrics(target)


def given_metrics(model: keras.Model) -> list[keras.Metric]:
    """Return the metric objects passed to `compile`.

    Keras neither lists nor resets them before the first batch.
    """
    config = compile_config_of(model)
    if config is None:
        return []
    return _objects({name: config[name] for name in _METRICS})


def reset_given_metrics(model: keras.Model) -> None:
    """Reset the metrics that Keras does not list yet."""
    if lists_its_metrics(model):
        return
    for metric in given_metrics(model):
        if metric.variables:  # Some metrics create them later.
            metric.reset_state()


_METRICS = ("metrics", "weighted_metrics")


def _objects(metrics):
    found = tree.flatten(metrics)
    found = [metric for metric in found if isinstance(metric, keras.Metric)]
    return list({id(metric): metric for metric in found}.values())


def _copied(config):
    """Return the compiled metrics with each object copied once."""
    given = {name: config[name] for name in _METRICS}
    copies = {id(m): _copy(m) or m for m in _objects(given)}
    return {
        name: tree.map_structure(lambda m: copies.get(id(m), m), metrics)
        for name, metrics in given.items()
        if metrics is not None
    }


def _copy(metric):
    """Return a copy of a metric; `None` if its config is incomplete."""
    try:
        copy = type(metric).from_config(metric.get_config())
    except Exception:  # A metric's config can be missing or fail in any way.
        return None
    if not _same(metric, copy):
        return None
    # Not every variable is a count.
    for variable, other in zip(metric.variables, copy.variables, strict=True):
        other.assign(variable)
    return copy


def _same(one, other):
    """Return whether two metrics have the same non-variable attributes."""
    if type(one) is not type(other) or vars(one).keys() != vars(other).keys():
        return False
    return all(
        _equal(value, vars(other)[name])
        for name, value in vars(one).items()
        if not name.startswith(TRACKING)
    )


def _equal(one, other):
    if isinstance(one, keras.Variable):
        return isinstance(other, keras.Variable) and one.shape == other.shape
    if isinstance(one, keras.Metric):
        return _same(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(_equal(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list | tuple):
        return (
            isinstance(other, list | tuple)
            and len(one) == len(other)
            and all(map(_equal, one, other))
        )
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray) or ops.is_tensor(one):
        one, other = ops.convert_to_numpy(one), ops.convert_to_numpy(other)
        return np.array_equal(one, other)
    try:
        return bool(one == other)
    except Exception:  # `==` can return anything.
        return False
