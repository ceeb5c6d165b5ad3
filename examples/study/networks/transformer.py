"""A small transformer, for translation."""

import keras
import numpy as np
from keras import ops

from . import pieces


def transformer(
    source_vocabulary=2000,
    target_vocabulary=2000,
    length=32,
    weight_decay=0.0,
    width=128,
    blocks=1,
    heads=4,
    dropout=0.0,
):
    """The encoder-decoder of Vaswani et al. (2017), with pre-normalization.

    Maps `{"source": ..., "target": ...}`, numbers (batch, length) with 0 for
    padding, to logits of the piece after each piece of the target.
    """
    regularizer = pieces.regularizer(weight_decay)
    positions = _waves(length, width).tolist()

    def normalized(x):
        return keras.layers.LayerNormalization(epsilon=1e-6)(x)

    def added(x, change):
        if dropout:
            change = keras.layers.Dropout(dropout)(change)
        return keras.layers.Add()([x, change])

    def attended(x, memory=None, **options):
        attention = keras.layers.MultiHeadAttention(
            heads,
            width // heads,
            # Keras would compute another fan-in for this kernel.
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=width**-0.5
            ),
            kernel_regularizer=regularizer,
        )
        query = normalized(x)
        memory = query if memory is None else memory
        return added(x, attention(query, memory, **options))

    def fed_forward(x):
        hidden = keras.layers.Dense(
            4 * width, "relu", kernel_regularizer=regularizer
        )(normalized(x))
        return added(
            x, keras.layers.Dense(width, kernel_regularizer=regularizer)(hidden)
        )

    def embedded(numbers, vocabulary):
        x = keras.layers.Embedding(
            vocabulary,
            width,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=width**-0.5
            ),
        )(numbers)
        x = keras.layers.Rescaling(width**0.5, positions)(x)
        return keras.layers.Dropout(dropout)(x) if dropout else x

    source = keras.Input((length,), dtype="int32", name="source")
    target = keras.Input((length,), dtype="int32", name="target")
    # Masks padding after the end of a source sentence. The target needs no
    # mask, since attention there is causal.
    is_piece = ops.expand_dims(ops.not_equal(source, 0), 1)
    x = embedded(source, source_vocabulary)
    for _ in range(blocks):
        x = fed_forward(attended(x, attention_mask=is_piece))
    memory = normalized(x)
    x = embedded(target, target_vocabulary)
    for _ in range(blocks):
        x = attended(x, use_causal_mask=True)
        x = fed_forward(attended(x, memory, attention_mask=is_piece))
    logits = keras.layers.Dense(
        target_vocabulary, kernel_regularizer=regularizer
    )(normalized(x))
    return keras.Model({"source": source, "target": target}, logits)


def _waves(length, width):
    """Returns sines, then cosines of each position, by increasing period."""
    rates = 10_000 ** (-np.arange(width // 2) / (width // 2))
    angles = np.arange(length)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
