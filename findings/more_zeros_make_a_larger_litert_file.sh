#!/usr/bin/env bash
# keras==3.15.1, tensorflow-cpu==2.21.0, ai-edge-litert==2.3.0: a dense kernel
# with zeros anywhere, converted with Optimize.EXPERIMENTAL_SPARSITY, takes
# twice as many bytes with 97% zeros as with 96%. Between the two the converter
# turns from single weights, which LiteRT unpacks when it loads the file
# (DENSIFY), to blocks of four inputs, which its sparse kernel computes with. A
# block is stored whole, and at 97% most of what it stores are zeros.
#
# output seen:
#   96% zeros: 256744 bytes, unpacked when loaded
#   97% zeros: 517860 bytes, sparse kernel
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 tensorflow-cpu==2.21.0 \
  ai-edge-litert==2.3.0 numpy==2.4.6
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python -W ignore - 2>errors <<'PYTHON' | grep -E '^9[67]% zeros' | tee output
import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

order = np.random.default_rng(0).random((1024, 1024))
values = np.random.default_rng(1).normal(size=order.shape)
for percent in (96, 97):
    dense = keras.layers.Dense(1024, use_bias=False)
    model = keras.Sequential([keras.Input((1024,)), dense])
    dense.kernel.assign(np.where(order < percent / 100, 0, values))
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    file = converter.convert()
    interpreter = Interpreter(model_content=file)
    interpreter.allocate_tensors()
    operations = {op["op_name"] for op in interpreter._get_ops_details()}
    how = "unpacked when loaded" if "DENSIFY" in operations else "sparse kernel"
    print(f"\n{percent}% zeros: {len(file)} bytes, {how}")
PYTHON
grep -qE '^96% zeros: 25[0-9]{4} bytes, unpacked when loaded$' output
grep -qE '^97% zeros: 51[0-9]{4} bytes, sparse kernel$' output
