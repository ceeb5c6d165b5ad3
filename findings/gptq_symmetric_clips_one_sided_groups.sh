#!/usr/bin/env bash
# keras==3.15.1: GPTQConfig(symmetric=True) halves the largest weights of a
# group in which no weight is negative. With symmetric=False they stay.
#
# The scale is taken from [-a, a], where a is the largest magnitude, but is
# spread over all 15 steps of four bits, and the codes above zero are 7 of them:
# nothing above 7/15 of a can be told. Groups of one sign are rare in a dense
# kernel. In a pruned one, where a group of 16 keeps one or two weights, they
# are common.
#
# output seen:
#   symmetric=False: a weight of 1.0 becomes 1.000
#   symmetric=True: a weight of 1.0 becomes 0.467
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 jax==0.10.2 numpy==2.4.6
KERAS_BACKEND=jax "$folder/venv/bin/python" -W ignore - <<'PYTHON' | grep '^symmetric' | tee "$folder/output"
import keras
import numpy as np
from keras import layers

tokens = [np.array([[i, 3, 1, 4]], "int32") for i in range(4)]
kernel = np.zeros((16, 8), "float32")
kernel[0] = 1.0
for symmetric in (False, True):
    embedding = layers.Embedding(10, 16)
    block = keras.Sequential([layers.Dense(8, use_bias=False)])
    inputs = keras.Input((4,), dtype="int32")
    model = keras.Model(inputs, block(embedding(inputs)))
    block.layers[0].kernel.assign(kernel)
    model.quantize(
        config=keras.quantizers.GPTQConfig(
            dataset=tokens,
            tokenizer=lambda text: text,
            weight_bits=4,
            group_size=-1,
            symmetric=symmetric,
            num_samples=4,
            sequence_length=4,
            quantization_layer_structure={
                "pre_block_layers": [embedding],
                "sequential_blocks": [block],
            },
        )
    )
    found = np.asarray(block(np.eye(16, dtype="float32")[None]))[0, 0, 0]
    print(f"\nsymmetric={symmetric}: a weight of 1.0 becomes {found:.3f}")
PYTHON
grep -qx 'symmetric=False: a weight of 1.0 becomes 1.000' "$folder/output"
grep -qx 'symmetric=True: a weight of 1.0 becomes 0.467' "$folder/output"
