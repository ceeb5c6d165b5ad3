"""Batch-norm statistics of a model whose weights were changed."""

import keras

from keras_bimp.slots import as_array


def recalibrate_batch_norm(model: keras.Model, data) -> int:
    """Estimates the statistics of all batch normalisation anew from data.

    A pruning changes the activations, so that the moving means and variances
    no longer fit until a retraining has renewed them. This sets them to the
    averages over the batches of `data`, all else stays as it is: use it on a
    model that was pruned and is not retrained, or to see how much of the loss
    of accuracy is theirs. Neither `prune` nor `callbacks` does this.

    Dropout and noise act as in training. Frozen normalisation layers stay.

    Args:
        model: A built `keras.Model`, wrapped or not.
        data: Batches of inputs, or of tuples whose first entry is the inputs,
            as `fit` takes them; or an array of inputs, which is one batch.

    Returns:
        The number of batch-normalisation layers that were recalibrated.

    Raises:
        ValueError: If the model has none, or `data` has no batch. Nothing has
            changed then.

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
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
    ]
    if not layers:
        raise ValueError(
            "`model` must have a `BatchNormalization` layer that is not "
            f"frozen. Received: model={model!r}"
        )
    momenta = [layer.momentum for layer in layers]
    before = [(v, as_array(v)) for v in model.non_trainable_variables]
    statistics = {
        id(v)
        for layer in layers
        for v in (layer.moving_mean, layer.moving_variance)
    }
    seen = 0
    done = False
    try:
        for inputs, size in _batches(data):
            seen += size
            for layer in layers:
                # The average of all so far, each weighted by its size.
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


def _batches(data):
    """Yields pairs (inputs of a batch, its size)."""
    single = hasattr(data, "shape")
    for batch in [data] if single else data:
        inputs = batch[0] if isinstance(batch, tuple | list) else batch
        yield inputs, int(keras.tree.flatten(inputs)[0].shape[0])
