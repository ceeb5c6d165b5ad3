"""What the examples of pages and docstrings take for granted."""

import functools

import keras
import numpy as np

import keras_bimp


def build_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def prelude():
    """What the pages take for granted: a model, images and their labels."""
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 8, 8, 1), "float32"), rng.integers(10, size=64)
    return {
        "__name__": "page",
        "keras": keras,
        "keras_bimp": keras_bimp,
        "np": np,
        "build_model": build_model,
        "x": x,
        "y": y,
        "x_test": x[:32],
        "y_test": y[:32],
    }


def interpret(monkeypatch):
    """Compiling with XLA takes longer than the tiny trainings of pages."""
    # Not of `keras.Model`: Keras warns of models with their own `compile`.
    owner = next(c for c in keras.Model.__mro__ if "compile" in vars(c))
    compile_model = owner.compile

    @functools.wraps(compile_model)
    def compile_quickly(self, *args, **kwargs):
        compile_model(self, *args, **{"jit_compile": False, **kwargs})

    monkeypatch.setattr(owner, "compile", compile_quickly)
