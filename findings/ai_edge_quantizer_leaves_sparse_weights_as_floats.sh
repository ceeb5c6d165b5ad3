#!/usr/bin/env bash
# ai-edge-quantizer==0.10.0, keras==3.15.1, tensorflow-cpu==2.21.0: the recipe
# for 8-bit weights makes a LiteRT file of a pruned model a third as large. If
# its zeros were packed (Optimize.EXPERIMENTAL_SPARSITY), it writes the file
# again without an error, and every weight in it is a float as before. The
# weights now come from a DENSIFY operation, and are no constants to it.
#
# output seen:
#   dense file: int8 kernels 2, size 0.3
#   sparse file: int8 kernels 0, size 1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ai-edge-quantizer==0.10.0 \
  ai-edge-litert==2.3.0 keras==3.15.1 tensorflow-cpu==2.21.0 numpy==2.4.6
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python -W ignore - 2>errors <<'PYTHON' | grep -E '^(dense|sparse) file' | tee output
import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from keras import layers

generator = np.random.default_rng(0)
model = keras.Sequential(
    [keras.Input((128,)), layers.Dense(128, activation="relu"), layers.Dense(64)]
)
for layer in model.layers:
    kept = generator.random(layer.kernel.shape) < 0.2
    layer.kernel.assign(layer.kernel * kept)
for what, optimizations in (
    ("dense", []),
    ("sparse", [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]),
):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = optimizations
    before = converter.convert()
    with open("model.tflite", "wb") as file:
        file.write(before)
    chosen = recipe.weight_only_wi8_afp32()
    after = quantizer.Quantizer("model.tflite", chosen).quantize().quantized_model
    details = Interpreter(model_content=bytes(after)).get_tensor_details()
    rounded = sum(
        detail["dtype"] == np.int8 and len(detail["shape"]) == 2 for detail in details
    )
    size = len(after) / len(before)
    print(f"\n{what} file: int8 kernels {rounded}, size {size:.1f}")
PYTHON
grep -qx 'dense file: int8 kernels 2, size 0.3' output
grep -qx 'sparse file: int8 kernels 0, size 1.0' output
