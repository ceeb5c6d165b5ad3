"""What meets what: pruning, the ways to quantize of Keras, LoRA, and formats.

Small networks with random weights, dense and 90% pruned, are quantized in each
way and exported to each format. What is written has run in its own runtime on
examples by then, in a process of its own: a cell of the table says how far its
outputs are off and how large the files are, gzipped, or that `export` refuses,
and in which words. Zeros are counted in the files of pruned models too. A run
that was stopped resumes.
"""

import functools
import gzip
import json
import math
import os
import pathlib
import re
import tempfile
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
import numpy as np
import sklearn.datasets
from absl import app
from absl import flags
from absl import logging
from file_zeros import share_of_zeros
from keras import layers

import keras_bimp
from keras_bimp._src.keras_internals.layers import layers_in

FLAGS = flags.FLAGS
flags.DEFINE_list("networks", None, "Those to measure; all by default.")
flags.DEFINE_list("modes", None, "Those to measure; all by default.")
flags.DEFINE_float("target_sparsity", 0.9, "To prune to.")
flags.DEFINE_string(
    "output", "output/pruned_and_quantized.jsonl", "What was measured."
)

FORMATS = {
    ".keras": "model.keras",
    "tf_saved_model": "1",
    "litert": "model.tflite",
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "packed": "model.packed",
}
LITERT = ("float32", "int8", "int8_weights", "float16")
TOKENS = 16
_PLACES = (
    r"<unknown>|error: loc\(|Exception from|: It runs in LiteRT only"
    r"| List of objects|, but got| while calling"
)


def images():
    """The digits that come with scikit-learn, as integers from 0 to 16."""
    return sklearn.datasets.load_digits().data


def mlp():
    """Two layers of 512; what calibrates it, and examples."""
    blocks = [
        layers.Dense(512, activation="relu"),
        layers.Dense(512, activation="relu"),
        layers.Dense(10),
    ]
    model = keras.Sequential([keras.Input((64,)), *blocks])
    before = [layers.Rescaling(1 / 16)]
    return model, before, blocks, images()[:16] / 16


def convnet():
    """Two convolutions and two dense layers."""
    convolutions = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Flatten(),
        ]
    )
    blocks = [layers.Dense(128, activation="relu"), layers.Dense(10)]
    model = keras.Sequential([keras.Input((64,)), convolutions, *blocks])
    before = [layers.Rescaling(1 / 16), convolutions]
    return model, before, blocks, images()[:16] / 16


def transformer():
    """One block of width 64 that reads tokens."""
    embedding = layers.Embedding(32, 64)
    x = keras.Input((TOKENS, 64))
    y = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 32)(x, x))
    z = layers.Dense(64)(layers.Dense(256, activation="relu")(y))
    block = keras.Model(x, layers.LayerNormalization()(y + z))
    model = keras.Sequential(
        [
            keras.Input((TOKENS,), dtype="int32"),
            embedding,
            block,
            layers.GlobalAveragePooling1D(),
            layers.Dense(10),
        ]
    )
    examples = np.random.default_rng(0).integers(0, 32, (16, TOKENS))
    return model, [embedding], [block], examples


def quantized(model, before, blocks, examples, config=None, kind=None):
    """Quantizes a model in place."""
    if kind is not None:
        # Integers in sequences, as its calibration takes them.
        integers = np.rint(examples * (16 if examples.dtype.kind == "f" else 1))
        config = getattr(keras.quantizers, kind)(
            dataset=list(integers.astype("int32")),
            tokenizer=list,  # It is asked for, but not called.
            num_samples=16,
            sequence_length=examples.shape[1],
            group_size=32,
            quantization_layer_structure={
                "pre_block_layers": before,
                "sequential_blocks": blocks,
            },
        )
    model.quantize(config.mode, config=config)


def adapted(model, *_):
    """Adds LoRA to a model in place, with factors that are not 0."""
    rng = np.random.default_rng(1)
    for layer in layers_in(model):
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(4)
            for variable in layer.trainable_variables:
                if "lora" in variable.name:
                    variable.assign(0.05 * rng.normal(size=variable.shape))


def with_config(name, **more):
    config = getattr(keras.quantizers, f"{name}QuantizationConfig")(**more)
    return functools.partial(quantized, config=config)


NETWORKS = {"MLP 512": mlp, "transformer": transformer, "convnet": convnet}
MODES = {
    "int8": with_config("Int8"),
    "int8, weights only": with_config("Int8", activation_quantizer=None),
    "int4": with_config("Int4"),
    "int4, block_size=None": with_config("Int4", block_size=None),
    "float8": with_config("Float8"),
    "gptq": functools.partial(quantized, kind="GPTQConfig"),
    "awq": functools.partial(quantized, kind="AWQConfig"),
    "LoRA": adapted,
    "float32": lambda *_: None,
}


def build(network, pruned, mode):
    """The model, examples, and the sizes of its kernels."""
    keras.utils.set_random_seed(0)
    model, before, blocks, examples = NETWORKS[network]()
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in ("bias", "beta"):
            variable.assign(0.1 * rng.normal(size=variable.shape))
    if pruned:
        wrapped = keras_bimp.wrap(model)
        keras_bimp.prune(wrapped, FLAGS.target_sparsity, allocation="uniform")
        model = keras_bimp.strip(wrapped)
    kind = "float32" if examples.dtype.kind == "f" else "int32"
    examples = examples.astype(kind)
    sizes = {math.prod(v.shape) for v in model.variables if len(v.shape) > 1}
    MODES[mode](model, before, blocks, examples)
    return model, examples, sizes


def size_of(path):
    """Bytes of what was written, gzipped file by file."""
    parts = path.parent.rglob("*")
    return sum(
        len(gzip.compress(part.read_bytes()))
        for part in parts
        if part.is_file()
    )


def write(model, examples, format, path, **more):
    """Writes a model; how far its outputs are off."""
    if format != ".keras":
        exported = keras_bimp.export(
            model, path, format, example_data=examples, verbose=0, **more
        )
        if exported.difference is not None:
            return exported.difference
        again = keras_bimp.exporting.load_packed(path)
    else:
        model.save(path)
        again = keras.models.load_model(path)
    expected = np.array(model(examples))
    found = np.array(again(examples))
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def measured(model, examples, sizes, format, **more):
    """What a cell says."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "written", FORMATS[format])
        path.parent.mkdir()
        try:
            off = write(model, examples, format, path, **more)
        except (RuntimeError, ValueError) as error:
            return {"refused": " ".join(str(error).split())}
        found = share_of_zeros(format, path, sizes)
        return {
            "difference": off,
            "bytes": size_of(path),
            "zeros in file": found,
        }


def is_missing(row, pruned):
    """Whether a cell is to be measured, of which this is known."""
    if row is None:
        return True
    return pruned and "refused" not in row and "zeros in file" not in row


def jobs():
    """Yields network, mode, and whether it is pruned: such ones first."""
    for pruned in (True, False):
        for network in FLAGS.networks or NETWORKS:
            for mode in FLAGS.modes or MODES:
                yield network, mode, pruned


def cells(mode):
    """Name of a cell -> format and what is asked of it."""
    found = {format: (format, {}) for format in FORMATS}
    if mode == "float32":
        for quantize in LITERT[1:]:
            found[f"litert, {quantize}"] = "litert", {"quantize": quantize}
        found["packed, int8_weights"] = (
            "packed",
            {"quantize": "int8_weights"},
        )
        for quantize in LITERT:
            more = {} if quantize == "float32" else {"quantize": quantize}
            found[f"litert, {quantize}, sparse tensors"] = (
                "litert",
                {"sparse_tensors": True, **more},
            )
    return found


def measure(path, known):
    """Measures the cells that are missing, and appends them to a file."""
    for network, mode, pruned in jobs():
        missing = {
            cell: what
            for cell, what in cells(mode).items()
            if is_missing(known.get((network, mode, pruned, cell)), pruned)
        }
        if not missing:
            continue
        keras.backend.clear_session()
        why = None
        try:
            model, examples, sizes = build(network, pruned, mode)
            share = keras_bimp.sparsity(model).prunable
        except Exception as error:  # Of Keras, whatever it raises.
            why = f"By Keras: {error}"
        for cell, (format, more) in missing.items():
            if why is not None:
                share, result = float("nan"), {"refused": why}
            else:
                if more.get("quantize") == "int8":
                    more = more | {"calibration_data": examples}
                result = measured(model, examples, sizes, format, **more)
            row = {
                "network": network,
                "mode": mode,
                "pruned": pruned,
                "zeros": share,
                "cell": cell,
                **result,
            }
            known[network, mode, pruned, cell] = row
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def load(path):
    """What was measured by now."""
    rows = path.read_text().splitlines() if path.exists() else []
    known = {}
    for row in map(json.loads, rows):
        key = row["network"], row["mode"], row["pruned"], row["cell"]
        known[key] = row
    return known


class Notes:
    """Numbers the sentences in which something is refused."""

    def __init__(self):
        self._numbers = {}

    def number(self, text):
        # Names and numbers differ from model to model, and which layer it is.
        text = text.partition(" It is a model with layer")[0]
        text = re.sub(r"up to [\d.e+-]+ of", "up to ... of", text)
        # What follows are places in a graph, and in sources of a library.
        text = re.split(_PLACES, text)[0].strip(" :.")
        text = re.sub(r"(sequential|functional)(_\d+)?/", "", text)
        text = re.sub(r"(dense|embedding|query)_\d+", r"\1", text)
        return self._numbers.setdefault(text, len(self._numbers) + 1)

    def __str__(self):
        return "\n".join(f"{n}. {t}" for t, n in self._numbers.items())


def told(row, notes):
    if row is None:
        return "not measured"
    if "refused" in row:
        return f"refused ({notes.number(row['refused'])})"
    said = f"{row['difference']:.0e}, {row['bytes'] / 1000:,.0f} kB"
    zeros = row.get("zeros in file", math.nan)
    return said if math.isnan(zeros) else f"{said}, {zeros:.1%}"


def print_tables(known):
    notes = Notes()
    for network in FLAGS.networks or NETWORKS:
        print(f"\n**{network}**\n")
        print(f"| weights | zeros | {' | '.join(FORMATS)} |")
        print("|---|---" + "|---" * len(FORMATS) + "|")
        for mode in FLAGS.modes or MODES:
            for pruned in (False, True):
                rows = [known.get((network, mode, pruned, f)) for f in FORMATS]
                if not any(rows):
                    continue
                zeros = next(row["zeros"] for row in rows if row)
                print(
                    f"| {mode}{', pruned' * pruned} | {zeros:.1%} | "
                    f"{' | '.join(told(row, notes) for row in rows)} |"
                )
        print("\n| quantized by `export` | dense | pruned |\n|---|---|---|")
        for cell in cells("float32"):
            if cell not in FORMATS:
                pair = [
                    told(known.get((network, "float32", pruned, cell)), notes)
                    for pruned in (False, True)
                ]
                print(f"| {cell} | {' | '.join(pair)} |")
    print(f"\n{notes}")


def main(_):
    logging.set_verbosity(logging.WARNING)
    # Of layers that are not quantized, and of modes that a layer lacks.
    warnings.simplefilter("ignore")
    path = pathlib.Path(FLAGS.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = load(path)
    measure(path, known)
    print_tables(known)


if __name__ == "__main__":
    app.run(main)
