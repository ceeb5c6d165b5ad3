"""Runs an exported model in its own runtime, in a process without Keras.

`python -P runtimes.py FOLDER` reads `job.json` and `inputs.npz` there, and
writes `outputs.npz`, and any special settings it needed to `notes.txt`. Neither
Keras nor keras_bimp can be imported.
"""

import json
import pathlib
import sys

import numpy as np


def run(
    format: str, path: str, inputs: list, names: list, notes: list
) -> list[np.ndarray]:
    """Computes the outputs of a model in its runtime.

    Args:
        format: As in `export`.
        path: The exported file or folder.
        inputs: Arrays.
        names: Their names in the model, `None` for unnamed inputs.
        notes: A list to append remarks for the user to.

    Returns:
        The outputs, in the order of `keras.tree.flatten`.
    """
    return _RUNTIMES[format](path, inputs, names, notes)


def in_tensorflow(name: str | None) -> str | None:
    """Returns the name that TensorFlow gives to a named input."""
    if not name:
        return name
    name = "".join(c if c.isalnum() else "_" for c in name)
    return name if name[0].isalpha() else f"arg_{name}"


def _saved_model(path, inputs, names, notes):
    import tensorflow as tf

    _block("keras")  # TensorFlow itself may import it before this.
    serve = tf.saved_model.load(path).signatures["serving_default"]
    known = serve.structured_input_signature[1]
    # The dict has no order: TensorFlow numbers inputs that have no names.
    named = _by_name(sorted(known, key=_numbers), inputs, names)
    return _in_order(
        serve(**{k: tf.constant(x, known[k].dtype) for k, x in named.items()})
    )


def _litert(path, inputs, names, notes):
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.interpreter import OpResolverType

    without = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES

    def compute(**more):
        interpreter = Interpreter(path, **more)
        runner = interpreter.get_signature_runner("serving_default")
        known = sorted(runner.get_input_details(), key=_numbers)
        return _in_order(runner(**_by_name(known, inputs, names)))

    try:
        return compute()
    except RuntimeError as error:
        if "delegate" not in str(error):
            raise
        # XNNPACK accepts sparse 8-bit dense layers, and fails with them.
        outputs = compute(experimental_op_resolver_type=without)
        notes.append(
            "It runs in LiteRT only without its default delegate, with "
            "experimental_op_resolver_type=OpResolverType."
            f"{without.name}: {error}"
        )
        return outputs


def _onnx(path, inputs, names, notes):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )
    known = [value.name for value in session.get_inputs()]
    return session.run(None, _by_name(known, inputs, names))


def _openvino(path, inputs, names, notes):
    import openvino

    # Some processors would compute in bfloat16.
    compiled = openvino.Core().compile_model(
        path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    own = {*names, *map(in_tensorflow, names)}
    known = [
        next(iter(value.get_names() & own), value.get_any_name())
        for value in compiled.inputs
    ]
    found = compiled(_by_name(known, inputs, names))
    outputs = {}
    for x in compiled.outputs:
        # Identical outputs share all their names, and an output that is an
        # input also has the name of the input.
        same = sum(y.get_names() == x.get_names() for y in compiled.outputs)
        by_likelihood = sorted(
            x.get_names(), key=lambda name: (name in own, _place(name))
        )
        outputs.update(dict.fromkeys(by_likelihood[:same], found[x]))
    return _in_order(outputs)


def _by_name(known, inputs, names):
    """Maps the names that a runtime uses to the inputs."""
    if set(names) != set(known):
        names = [*map(in_tensorflow, names)]
    if len(set(names)) < len(names) or set(names) != set(known):
        names = known  # The converter renamed them, in the same order.
    if len(names) != len(inputs):
        raise ValueError(
            f"it takes {len(names)} inputs instead of {len(inputs)}: "
            f"{', '.join(names)}"
        )
    return dict(zip(names, inputs, strict=True))


def _numbers(name):
    return [int(part) for part in name.split("_") if part.isdecimal()]


def _in_order(outputs):
    """Returns named outputs in the order of the model."""
    return [
        _as_known(np.asarray(outputs[name]))
        for name in sorted(outputs, key=_place)
    ]


def _as_known(array):
    """Casts bfloat16, which NumPy files do not support, to float32."""
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _place(name):
    number = name.removeprefix("output_")
    return (0, int(number), "") if number.isdigit() else (1, 0, name)


class _Blocked:
    def __init__(self, name):
        self.name = name

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.name:
            raise ImportError(f"{name} must not be needed")


def _block(name):
    sys.meta_path.insert(0, _Blocked(name))


_RUNTIMES = {
    "tf_saved_model": _saved_model,
    "litert": _litert,
    "onnx": _onnx,
    "openvino": _openvino,
}


def _main(folder):
    _block("keras_bimp")
    job = json.loads((folder / "job.json").read_text())
    with np.load(folder / "inputs.npz") as arrays:
        inputs = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
    notes = []
    try:
        outputs = run(job["format"], job["path"], inputs, job["names"], notes)
    except Exception as error:
        text = str(error) or type(error).__name__
        (folder / "error.txt").write_text(text)
        raise
    np.savez(folder / "outputs.npz", *outputs)
    (folder / "notes.txt").write_text("\n".join(notes))


if __name__ == "__main__":
    _main(pathlib.Path(sys.argv[1]))
