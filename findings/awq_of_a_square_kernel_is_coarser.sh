#!/usr/bin/env bash
# keras==3.15.1, tensorflow-cpu==2.21.0: awq with one group per output
# (`group_size=-1`) is four times as far off where a dense kernel is square as
# where it is a little narrower or wider. With groups of 8 the shape does not
# matter. A pruned square kernel also loses zeros in this way.
#
# Largest difference of the layer's outputs, relative to the largest output.
# output seen:
#   16x12: groups of 8 0.048, one group 0.080
#   16x16: groups of 8 0.058, one group 0.268
#   16x20: groups of 8 0.050, one group 0.063
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 tensorflow-cpu==2.21.0 \
  numpy==2.4.6
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" -W ignore - <<'PYTHON' | grep -E '^(16x|as said)' | tee "$folder/output"
import keras
import numpy as np
from keras import layers


def off(outputs, group_size):
    keras.utils.set_random_seed(0)
    first = layers.Dense(outputs)
    model = keras.Sequential([keras.Input((16,)), first, layers.Dense(4)])
    x = np.random.default_rng(0).normal(size=(32, 16)).astype("float32")
    before = np.asarray(first(x))
    config = keras.quantizers.AWQConfig(
        dataset=[x[i : i + 1] for i in range(8)],
        tokenizer=lambda text: text,
        num_samples=8,
        sequence_length=16,
        group_size=group_size,
        quantization_layer_structure={
            "pre_block_layers": [],
            "sequential_blocks": [first],
        },
    )
    model.quantize("awq", config=config)
    return float(np.abs(first(x) - before).max() / np.abs(before).max())


found = {n: (off(n, 8), off(n, -1)) for n in (12, 16, 20)}
for outputs, (eight, one) in found.items():
    print(f"\n16x{outputs}: groups of 8 {eight:.3f}, one group {one:.3f}")
as_said = found[16][1] > 0.2 and all(
    value < 0.1 for n, pair in found.items() for value in pair if (n, value) != (16, found[16][1])
)
print(f"\nas said: {as_said}")
PYTHON
grep -qx 'as said: True' "$folder/output"
