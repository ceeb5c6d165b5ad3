"""What helps models that come out wrong in some format."""

import contextlib

import keras
from keras import tree

from keras_bimp._src.foreign_errors import told
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.quantization import has_lora
from keras_bimp._src.keras_internals.quantization import is_quantized
from keras_bimp._src.keras_internals.saving import get_input_signature
from keras_bimp._src.name_lists import listed

_BYTES = (
    "`quantize(config=keras.quantizers.Int8QuantizationConfig("
    "activation_quantizer=None))`, which rounds weights to 8 bits and nothing "
    "else"
)
# What may be right where a mode is not.
_INSTEAD = {
    "int4": (
        "`quantize(config=keras.quantizers.Int4QuantizationConfig("
        f"block_size=None))`, which has one scale for each output, or {_BYTES}"
    )
}
_MERGED = (
    "`save_weights` merges LoRA: load what it writes into a model that was "
    "built without LoRA"
)


def modes_of(model: keras.Model) -> dict[str, str]:
    """Path of each layer that is quantized or has LoRA -> how it is."""
    return {
        layer.path or layer.name: " and ".join(
            [f"quantized to '{layer.quantization_mode}'"] * is_quantized(layer)
            + ["LoRA"] * has_lora(layer)
        )
        for layer in layers_in(model)
        if is_quantized(layer) or has_lora(layer)
    }


def told_of(model: keras.Model) -> str:
    """Which layers of a model are quantized or have LoRA, for a message."""
    modes = modes_of(model)
    (path, mode), more = next(iter(modes.items())), len(modes) - 1
    others = f" and {more:,} more like it" if more else ""
    return f"a model with layer '{path}'{others}: {mode}"


@contextlib.contextmanager
def kept_by_keras(model: keras.Model):
    """Names what Keras has done to a model that it cannot save or load."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not modes_of(model):
            raise
        raise ValueError(
            "`model` must be one that Keras can save and load. Received: a "
            f"model of which Keras says: {told(error)}"
            f"{remedy_of_quantized(model, 'packed')}"
        ) from error


def remedy_of_steps(model: keras.Model) -> str:
    """What helps `TimeDistributed`, which keeps too few steps in a graph.

    Where their number is open, it keeps as many as there are examples. Empty
    if it is not there.
    """
    names = [
        f"'{layer.name}'"
        for layer in layers_in(model)
        if isinstance(layer, keras.layers.TimeDistributed)
    ]
    specs = tree.flatten(get_input_signature(model)) if names else []
    if not any(None in spec.shape[1:2] for spec in specs):
        return ""
    return (
        f". It has {listed(names)}, which Keras may write with too few steps "
        "if their number is open. Build the model for a fixed number of steps, "
        "and give it these weights: `other.set_weights(model.get_weights())`"
    )


def remedy_of_quantized(model: keras.Model, format: str) -> str:
    """What may help where a format is wrong; empty if nothing is quantized."""
    if not modes_of(model):
        return ""
    layers = layers_in(model)
    modes = {x.quantization_mode for x in layers if is_quantized(x)}
    if any(map(has_lora, layers)):
        remedy = _MERGED + (", and quantize that" if modes else "")
    elif format == "packed":
        remedy = (
            "Export the model as it was before `quantize`, with "
            "quantize='int8_weights' for 8 bits"
        )
    else:
        remedy = (
            "Export the model as it was before `quantize`"
            + (", with quantize='int8'," if format == "litert" else "")
            + " or after "
            + next((_INSTEAD[m] for m in modes if m in _INSTEAD), _BYTES)
        )
    return f". It is {told_of(model)}. {remedy}"
