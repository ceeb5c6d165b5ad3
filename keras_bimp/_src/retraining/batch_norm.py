"""Recalibrate batch-norm statistics after the weights changed."""

import itertools

import keras
from keras import ops

from keras_bimp._src.backends import as_array
from keras_bimp._src.checks import check_integer
from keras_bimp._src.evaluating import fixed_batch_size
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.processes import check_alone
from keras_bimp._src.retraining.samples import split


def recalibrate_batch_norm(
    model: keras.Model, data, steps: int | None = None
) -> int:
    """Recompute the statistics of all batch normalization from data.

    A pruning changes the activations, so the moving means and variances no
    longer fit until retraining has updated them. This function sets them to
    the averages over the batches of `data` and changes nothing else. Use it
    on a pruned model that is not retrained, or to find how much of the
    accuracy loss they cause. Neither `prune` nor `callbacks` calls it.

    Dropout and noise are active, as in training. Frozen normalization layers
    are left unchanged.

    Args:
        model: A built `keras.Model`, wrapped or not.
        data: An array of inputs, or a tuple of arrays `(x, y)`, of which only
            `x` is used; or batches of these, as in `fit`.
        steps: Integer >= 1, how many batches to use. Defaults to all.

    Returns:
        The number of recalibrated batch-normalization layers.

    Raises:
        ValueError: If the model has no such layers, `data` has no batch, or
            `steps` is less than 1. The model is unchanged then.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((1,)), keras.layers.BatchNormalization()]
    ... )
    >>> keras_bimp.recalibrate_batch_norm(model, np.array([[1.0], [5.0]]))
    1
    >>> [float(v.numpy()[0]) for v in model.non_trainable_variables]
    [3.0, 4.0]

    Reference:

    - Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural
      Network Pruning", ECCV 2020.
    """
    check_alone("`recalibrate_batch_norm`")
    layers = [
        layer
        for layer in layers_in(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
    ]
    if not layers:
        raise ValueError(
            "`model` must have a `BatchNormalization` layer that is not "
            f"frozen. Received: model={model!r}"
        )
    if steps is not None:
        check_integer("steps", steps, minimum=1)
    momenta = [layer.momentum for layer in layers]
    before = [(v, as_array(v)) for v in model.non_trainable_variables]
    statistics = set()
    for layer in layers:
        statistics |= {id(layer.moving_mean), id(layer.moving_variance)}
    seen = 0
    done = False
    try:
        for variable, _ in before:
            if id(variable) in statistics:
                # Reset first, because 0 times NaN would be NaN.
                variable.assign(ops.zeros_like(variable.value))
        for inputs, size in itertools.islice(
            _batches(data, fixed_batch_size(model)), steps
        ):
            seen += size
            for layer in layers:
                # The running average, weighted by batch size.
                layer.momentum = 1 - size / seen
            model(inputs, training=True)
        done = seen > 0
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for variable, value in before:
            if not done or id(variable) not in statistics:
                variable.assign(value)
    if not done:
        raise ValueError(
            f"`data` must have at least one batch. Received: data={data!r}"
        )
    return len(layers)


def _batches(data, batch_size):
    """Yield pairs (inputs of a batch, its size)."""
    if isinstance(data, tuple | dict) or hasattr(data, "shape"):
        arrays = data[0] if isinstance(data, tuple) else data
        data = split(arrays, batch_size)
    for batch in data:
        inputs = batch[0] if isinstance(batch, tuple | list) else batch
        yield inputs, len(keras.tree.flatten(inputs)[0])
