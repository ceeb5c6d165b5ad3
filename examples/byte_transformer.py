"""A small transformer that predicts the next byte, and a text to train on."""

import pathlib
import pydoc_data.topics
import time

import keras
import numpy as np
from keras import layers


def load_text(length, subset=None, data_dir=None):
    """Returns pairs (bytes, next bytes) for training and for validation.

    Args:
        length: Bytes per sequence.
        subset: How many bytes of the text to use. Defaults to all.
        data_dir: Folder of text files. Defaults to the documentation that
            comes with Python.
    """
    if data_dir:  # Such as Multi30k, with a sentence per line.
        files = sorted(pathlib.Path(data_dir).rglob("*"))
        text = b"\n\n".join(f.read_bytes() for f in files if f.is_file())
    else:
        topics = pydoc_data.topics.topics
        text = "\n\n".join(topics[name] for name in sorted(topics)).encode()
    rows = np.frombuffer(text[:subset], "uint8").astype("int32")
    rows = rows[: (len(rows) - 1) // length * length + 1]
    x, y = (part.reshape(-1, length) for part in (rows[:-1], rows[1:]))
    validation = np.arange(len(x)) % 10 == 9
    return [(x[here], y[here]) for here in (~validation, validation)]


def build_transformer(length, blocks, width, heads, dropout=0.0):
    def dropped(x):
        return layers.Dropout(dropout)(x) if dropout else x

    def block(x):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(heads, width // heads)(
            y, y, use_causal_mask=True
        )
        x = layers.Add()([x, dropped(y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="gelu")(y)
        return layers.Add()([x, dropped(layers.Dense(width)(y))])

    inputs = keras.Input((length,), dtype="int32")
    places = keras.ops.cumsum(keras.ops.ones_like(inputs), axis=-1) - 1
    x = layers.Embedding(256, width)(inputs)
    x = x + layers.Embedding(length, width)(places)
    for _ in range(blocks):
        x = block(x)
    x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.Dense(256)(x))


def milliseconds(functions, x, rounds):
    """Returns the times of each function for some rows, one per round."""
    times = [[] for _ in functions]
    for round_ in range(-3, rounds):
        for function, found in zip(functions, times, strict=True):
            begin = time.perf_counter()
            function(x)
            if round_ >= 0:  # The first rounds warm up.
                found.append(1000 * (time.perf_counter() - begin))
    return np.array(times)
