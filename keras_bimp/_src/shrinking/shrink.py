"""`shrink`: removes the channels of a model that do nothing."""

import functools
import warnings

import keras
import numpy as np
from keras import ops
from keras import tree

from keras_bimp._src.backends import backend
from keras_bimp._src.checks import check_integer
from keras_bimp._src.failures import why_failed
from keras_bimp._src.keras_internals.functional_graphs import graph_of
from keras_bimp._src.keras_internals.functional_graphs import inputs_of
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.masking import compile_like
from keras_bimp._src.masking import has_own_steps
from keras_bimp._src.masking import masked_layers
from keras_bimp._src.model_record import progress_of
from keras_bimp._src.model_record import record_of
from keras_bimp._src.name_lists import listed
from keras_bimp._src.shrinking.channel_rules import Barrier
from keras_bimp._src.shrinking.following import Followed
from keras_bimp._src.shrinking.following import is_graph
from keras_bimp._src.shrinking.rebuilding import rebuild
from keras_bimp._src.trial_runs import check_lengths
from keras_bimp._src.trial_runs import left_as_it_was
from keras_bimp._src.trial_runs import try_inputs
from keras_bimp._src.trial_values import input_values


def shrink(model: keras.Model, align: int = 8) -> keras.Model:
    """Removes from a pruned model the channels that do nothing.

    Pruned filters are zeros that are still computed with. This returns a
    smaller model of ordinary Keras layers that has the same outputs as `model`
    and is faster on any hardware. It can be saved, exported and trained
    further.

    A channel is removed if no weight reads it, or if it has the same value for
    every input. That value need not be 0: a filter of zeros still outputs its
    bias, which batch normalization may change. The contribution of a constant
    channel to the next layers is added to their biases; a layer without a bias
    gets one. If an image is padded with zeros, the channel is not constant
    along the border. Then one constant channel stays and replaces the others.

    Channels that are added or multiplied, as along the residual stream of a
    ResNet, are only removed together. `granularity="unit"` prunes them
    together. Layers that mix all channels, such as `LayerNormalization` and
    attention, keep all channels that they read and return, and so do custom
    layers. Attention loses heads. Recurrent layers lose units that nothing
    reads. The inputs and outputs of the model do not change.

    A subclass of Functional that does not override `call`, such as the tasks
    and backbones of KerasHub, becomes a plain Functional model. It loses the
    other features of the class, such as preprocessing. It is compiled unless
    the class has a custom loss or train step.

    Args:
        model: A built Functional or Sequential model, as returned by `strip`,
            whose filters or units were pruned. It is not changed.
        align: Integer >= 1. The number of filters or units that each layer
            keeps is a multiple of it if the layer has that many, because
            hardware is faster then. 1 removes as many channels as possible.

    Returns:
        A `keras.Model`. If `model` is compiled, it has the same loss and
        metrics and a plain SGD. Compile it again to train it.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If `model` is wrapped, not built, quantized, neither
            Functional nor Sequential, has a layer that cannot be rebuilt
            from its config, or has no channel that can be removed.
        RuntimeError: If the outputs of the smaller model differ.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8, 8, 3)),
    ...         keras.layers.Conv2D(16, 3, activation="relu"),
    ...         keras.layers.GlobalAveragePooling2D(),
    ...         keras.layers.Dense(10),
    ...     ]
    ... )
    >>> wrapped = keras_bimp.wrap(model)
    >>> pruning = keras_bimp.prune(wrapped, 0.5, granularity="filter")
    >>> small = keras_bimp.shrink(keras_bimp.strip(wrapped))
    >>> small.layers[0].filters
    8

    Reference:

    - Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient
      ConvNets", ICLR 2017, Section 3.
    """
    _check_model(model)
    check_integer("align", align, minimum=1)
    followed = Followed(model)
    kept = followed.kept(align)
    smaller = rebuild(model, followed, kept)
    if smaller.count_params() >= model.count_params():
        raise ValueError(_why_nothing(model, followed))
    _check_outputs(model, smaller)
    record_of(smaller).progress = progress_of(model)
    if model.compiled and not has_own_steps(type(model)):
        compile_like(smaller, model, keras.optimizers.SGD(), scale=True)
    return smaller


def _check_model(model):
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model. Received: model={model!r}"
        )
    if masked_layers(model):
        raise ValueError(
            "`model` must be stripped first: "
            "`keras_bimp.shrink(keras_bimp.strip(model))`. "
            f"Received: model={model!r}"
        )
    if not model.built:
        raise ValueError(
            f"`model` must be built. Received: model={model!r}, which has no "
            "weights yet"
        )
    reason = why_failed(model)
    if reason is not None:
        raise ValueError(
            f"`model` must not come from a failed training. Received: {reason}"
        )
    if not is_graph(model):
        raise ValueError(
            "`model` must be Functional or Sequential and not have "
            "a custom `call`, so that its graph is known. "
            f"Received: model of class {type(model).__name__}"
        )
    for layer in layers_in(model):
        lora = getattr(layer, "lora_enabled", False)
        quantized = layer.quantization_mode is not None and layer.weights
        if lora or quantized:
            raise ValueError(
                "`model` must be shrunk before it is quantized or LoRA is "
                "enabled. "
                f"Received: model with layer '{layer.path or layer.name}', "
                + ("which has LoRA" if lora else "which is quantized")
            )


def _why_nothing(model, followed):
    reasons = {
        rule.operation.name: rule.reason
        for rule in followed.rules.values()
        if isinstance(rule, Barrier)
    }
    kept = listed((f"{name}: {why}" for name, why in reasons.items()), "; ")
    return (
        "`model` must have channels that do nothing: filters or units whose "
        "weights are all 0, along with all filters that they are added to. "
        "Single zeros do not remove a channel: prune with "
        "`granularity='unit'`. "
        f"Received: model={model!r}. Layers that keep all channels: "
        f"{kept or 'none'}"
    )


def _check_outputs(model, smaller):
    """Raises unless both compute the same for a random input."""

    def run(inputs):
        check_lengths(model, inputs)
        with left_as_it_was(model):
            first = _outputs(model, inputs)
        with left_as_it_was(model):
            return first, _outputs(model, inputs)

    inputs, (expected, again) = try_inputs(
        functools.partial(_made_up, model),
        run,
        is_open=any(None in x.shape[1:] for x in graph_of(model).inputs),
        remedy="Give its inputs fixed shapes: `keras.Input((128,))`",
    )
    with left_as_it_was(smaller):
        found = _outputs(smaller, inputs)
    half = any("16" in layer.compute_dtype for layer in layers_in(model))
    tolerance = 0.1 if half else 1e-3
    if _difference(expected, found, tolerance) is None:
        return
    if _difference(expected, again, tolerance) is not None:
        warnings.warn(
            "The smaller model is not compared with `model`, because the "
            "outputs of `model` are random.",
            stacklevel=3,
        )
        return
    difference, largest = _difference(expected, found, tolerance)
    raise RuntimeError(
        "The smaller model must compute the same as `model`. Received: "
        f"outputs that differ by {difference:g}, where they are up to "
        f"{largest:g}. If `model` has custom layers, check that their "
        "`get_config` returns everything that they compute with; otherwise "
        "please report it"
    )


def _difference(expected, found, tolerance):
    """Returns how far apart and how large outputs are; `None` if close."""
    for y, other in zip(expected, found, strict=True):
        same = (y == other) | (np.isnan(y) & np.isnan(other))
        difference = np.abs(np.where(same, 0.0, y - other)).max(initial=0.0)
        largest = np.abs(y[np.isfinite(y)]).max(initial=0.0)
        if not difference <= tolerance * largest + 1e-6:
            return difference, largest
    return None


def _outputs(model, inputs):
    return [
        ops.convert_to_numpy(ops.cast(y, "float32"))
        for y in tree.flatten(model(inputs, training=False))
    ]


def _made_up(model, length, make_one):
    rng = np.random.default_rng(0)
    struct = inputs_of(graph_of(model))
    dtypes = [
        keras.backend.standardize_dtype(x.dtype) for x in tree.flatten(struct)
    ]
    values = iter(input_values(model, dtypes))

    def make(x):
        batch, *rest = x.shape
        shape = (batch or 2, *[size or length for size in rest])
        dtype = keras.backend.standardize_dtype(x.dtype)
        array = make_one(shape, dtype, rng, next(values))
        # Only TensorFlow has string tensors.
        if dtype == "string" and backend() != "tensorflow":
            return array
        return ops.convert_to_tensor(array)

    return tree.map_structure(make, struct)
