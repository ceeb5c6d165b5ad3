"""KerasHub's T5, for translation."""

import warnings

import keras
from keras import ops

from . import pieces


def t5(
    source_vocabulary=32128,
    target_vocabulary=32128,
    length=128,
    weight_decay=0.0,
    layers=6,
    heads=8,
    width=512,
    hidden=2048,
    dropout=0.1,
):
    """T5-small of Raffel et al. (2020), randomly initialized; needs KerasHub.

    With the defaults, it has 60,506,624 parameters, of which 44,040,192 are
    prunable: all except the embedding table, which both languages and the
    output share. So a number has the same vector in both languages, even if it
    stands for different pieces.

    Maps `{"source": ..., "target": ...}`, numbers (batch, length) with 0 for
    padding, to logits of the piece after each piece of the target. Load its
    weights, not a `.keras` file: Keras 3.15 does not find the shared table
    there, and weight decay is not part of the config.
    """
    import keras_hub

    # Keras warns needlessly about how KerasHub passes a mask.
    warnings.filterwarnings(
        "ignore", "Layer '.*' \\(of type T5MultiHeadAttention\\) was passed"
    )
    backbone = keras_hub.models.T5Backbone(
        max(source_vocabulary, target_vocabulary),
        num_layers=layers,
        num_heads=heads,
        hidden_dim=width,
        intermediate_dim=hidden,
        dropout=dropout,
        use_gated_activation=False,
    )
    source = keras.Input((length,), dtype="int32", name="source")
    target = keras.Input((length,), dtype="int32", name="target")
    inputs = {}
    for side, numbers in (("encoder", source), ("decoder", target)):
        is_piece = ops.cast(ops.not_equal(numbers, 0), "int32")
        inputs[f"{side}_token_ids"] = numbers
        inputs[f"{side}_padding_mask"] = is_piece
    x = backbone(inputs)["decoder_sequence_output"]
    # As in T5 if the output shares the embedding table.
    x = keras.layers.Rescaling(width**-0.5)(x)
    logits = backbone.token_embedding(x, reverse=True)
    model = keras.Model({"source": source, "target": target}, logits)
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.regularizer = pieces.regularizer(weight_decay)
    return model
