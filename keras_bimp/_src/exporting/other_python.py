"""Writes a format in another Python process, with the TensorFlow backend.

Under JAX a SavedModel would be one opaque operation that only TensorFlow can
read. Under torch it would have a fixed batch size.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

import keras
import numpy as np

from keras_bimp._src.backends import backend
from keras_bimp._src.exporting.options import Options
from keras_bimp._src.foreign_errors import told

_ARRAYS = ("warmup", "calibration", "examples")
_PROGRAM = """
import sys
from keras_bimp._src.exporting.formats import main
main(sys.argv[1])
"""


def environment(**more: str) -> dict[str, str]:
    """Returns environment variables for a Python with the same imports."""
    here = str(pathlib.Path(__file__).parents[2])
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",  # This process may hold all of its memory.
        "PYTHONPATH": os.pathsep.join(filter(None, [here, *sys.path])),
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        **more,
    }


def write_with_tensorflow(
    model: keras.Model, format: str, path: pathlib.Path, options: Options
) -> None:
    """Writes a format in a process that uses the TensorFlow backend."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model.save(folder / "model.keras")
        job = {
            field.name: getattr(options, field.name)
            for field in dataclasses.fields(options)
            if field.name != "tell"
        }
        for key in _ARRAYS:
            if job[key] is not None:
                np.savez(folder / f"{key}.npz", *job[key])
                job[key] = True
        job = {"format": format, "path": str(path), "options": job}
        (folder / "job.json").write_text(json.dumps(job))
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM.strip(), name],
            env=environment(KERAS_BACKEND="tensorflow"),
            capture_output=True,
            text=True,
        )
        if not done.returncode:
            return
        raise _error(folder, done.stderr)


def write_here(folder: str, write: Callable) -> None:
    """Does the work of the other process.

    Args:
        folder: Where `write_with_tensorflow` put the model and the job.
        write: Callable (model, format, path, options).
    """
    folder = pathlib.Path(folder)
    job = json.loads((folder / "job.json").read_text())
    for key in _ARRAYS:
        if job["options"][key]:
            with np.load(folder / f"{key}.npz") as arrays:
                job["options"][key] = [
                    arrays[f"arr_{i}"] for i in range(len(arrays.files))
                ]
    try:
        # This program has just written it, so it is safe to load.
        model = keras.saving.load_model(
            folder / "model.keras", compile=False, safe_mode=False
        )
    except Exception as error:
        (folder / "error.txt").write_text(str(error))
        raise
    try:
        write(
            model,
            job["format"],
            pathlib.Path(job["path"]),
            Options(**job["options"]),
        )
    except Exception as error:
        known = {
            "is_value_error": isinstance(error, ValueError),
            "errno": getattr(error, "errno", None),
            "message": getattr(error, "strerror", None) or str(error),
        }
        (folder / "error.json").write_text(json.dumps(known))
        raise


def _error(folder, stderr):
    """Turns an error of the other process into an exception."""
    path = folder / "error.json"
    if path.exists():
        known = json.loads(path.read_text())
        if known["errno"]:
            return OSError(known["errno"], known["message"])
        kind = ValueError if known["is_value_error"] else RuntimeError
        return kind(known["message"])
    path = folder / "error.txt"
    if path.exists():
        said = told(path.read_text())
    else:  # It failed to start: the last line says why.
        said = told(stderr.strip().rpartition("\n")[2]) or "nothing"
    return ValueError(
        "TensorFlow writes this format, in a separate process that loads the "
        "model: TensorFlow must be installed, and the model must load without "
        "the classes of this program. Received: backend "
        f"'{backend()}', and in the other process: {said}"
    )
