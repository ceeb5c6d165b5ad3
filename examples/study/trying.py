"""Tries every feature of the library on one network."""

import functools
import json
import pathlib
import pickle
import re
import subprocess
import sys
import tempfile
import traceback

import keras
import numpy as np
from foreign import NETWORKS
from keras import tree

import keras_bimp

FORMATS = {
    "tf_saved_model": "1",
    "litert": "model.tflite",
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "packed": "model.packed",
}
# Name -> heading of its column, in the order of execution.
STEPS = {
    "wrap": "wrap",
    "fit": "fit",
    "strip": "strip",
    "load": "load elsewhere",
    "report": "report",
    "shrink": "shrink",
    "tf_saved_model": "SavedModel",
    "litert": "LiteRT",
    "onnx": "ONNX",
    "openvino": "OpenVINO",
    "packed": "packed",
}
SPARSITY = 0.5
_LENGTH = 400  # The maximum length of a message.


class Trial:
    """A network that is tried, from `wrap` to its exports.

    Args:
        name: One of `foreign.NETWORKS`.
        folder: Where to write files to.
    """

    def __init__(self, name: str, folder: pathlib.Path):
        self._name, self._folder = name, folder
        self._network = NETWORKS[name]()
        self._network.compile()

    def wrap(self):
        self._wrapped = keras_bimp.wrap(self._network.model)

    def fit(self):
        """Trains for two epochs of two steps, with pruning in between."""
        self._wrapped.fit(
            self._network.x,
            self._network.y,
            epochs=2,
            batch_size=len(tree.flatten(self._network.x)[0]) // 2,
            verbose=0,
            callbacks=keras_bimp.callbacks(
                SPARSITY,
                dense_epochs=1,
                allocation="global",
                steps_per_epoch=2,
                verbose=0,
            ),
        )
        found = keras_bimp.sparsity(self._wrapped).prunable
        if abs(found - SPARSITY) > 0.001:
            raise AssertionError(f"Sparsity {found:.3f} after training.")

    def strip(self):
        """Checks that `strip` returns the same model, with zeros."""
        before = self._predicted(self._wrapped)
        self._plain = keras_bimp.strip(self._wrapped)
        if self._plain is not self._network.model:
            raise AssertionError("`strip` returned another model.")
        self._expected = self._predicted(self._plain)
        _same(before, self._expected, 0)

    def load(self):
        """Loads the saved model in a process without keras_bimp."""
        self._plain.save(self._folder / "model.keras")
        with (self._folder / "expected.pickle").open("wb") as file:
            pickle.dump(self._expected, file)
        done = subprocess.run(
            [sys.executable, "-c", _LOADING, self._name, str(self._folder)],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise AssertionError(done.stderr.strip().splitlines()[-1])

    def report(self):
        keras_bimp.report(self._plain, latency=False, verbose=0)

    def shrink(self):
        """Prunes units that belong together, and removes them."""
        network = NETWORKS[self._name]()
        network.compile()
        wrapped = keras_bimp.wrap(network.model)
        keras_bimp.prune(
            wrapped, SPARSITY, granularity="unit", allocation="coupled"
        )
        plain = keras_bimp.strip(wrapped)
        small = keras_bimp.shrink(plain, align=1)
        left = small.count_params() / plain.count_params()
        return f"{left:.0%} left"

    def export(self, format: str):
        keras_bimp.export(
            self._plain, self._folder / format / FORMATS[format], format=format
        )

    def _predicted(self, model):
        return [
            np.asarray(y) for y in tree.flatten(predict(model, self._network.x))
        ]


for _format in FORMATS:
    setattr(
        Trial,
        _format,
        functools.partialmethod(Trial.export, format=_format),
    )


def predict(model, x):
    """Returns a model's predictions for one batch."""
    return model.predict(x, batch_size=len(tree.flatten(x)[0]), verbose=0)


def try_network(name: str, path: pathlib.Path) -> None:
    """Tries all steps, and writes the result of each.

    Args:
        name: One of `foreign.NETWORKS`.
        path: A JSON file, written after each step.
    """
    results = {}
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(name, pathlib.Path(folder))
        for step in STEPS:
            try:
                said = getattr(trial, step)()
                results[step] = f"works ({said})" if said else "works"
            except Exception as error:
                traceback.print_exc()
                results[step] = sentence(error)
                if step in ("wrap", "fit", "strip"):
                    path.write_text(json.dumps(results, indent=1))
                    return
            path.write_text(json.dumps(results, indent=1))


def sentence(error: Exception) -> str:
    """Returns the message of an error on one line."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).replace("`", "'")
    text = re.sub(r"\s+", " ", text).strip() or "no message"
    if len(text) > _LENGTH:
        text = text[:_LENGTH] + " ..."
    return f"{type(error).__name__}: {text}"


def _same(some, others, tolerance):
    for a, b in zip(some, others, strict=True):
        scale = np.abs(a).max(initial=0)
        difference = np.abs(a - b).max(initial=0)
        if not difference <= tolerance * scale:
            raise AssertionError(f"Outputs differ by {difference:.2g}.")


_LOADING = """
import sys
sys.modules["keras_bimp"] = None
import pathlib, pickle
import keras, numpy as np
from foreign import NETWORKS
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
x = NETWORKS[name]().x
model = keras.models.load_model(folder / "model.keras")
expected = pickle.loads((folder / "expected.pickle").read_bytes())
size = len(keras.tree.flatten(x)[0])
found = keras.tree.flatten(model.predict(x, batch_size=size, verbose=0))
for y, z in zip(found, expected, strict=True):
    np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-5)
"""
