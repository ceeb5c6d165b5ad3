#!/usr/bin/env bash
# keras==3.15.1, tensorflow-cpu==2.21.0: some models that `quantize` returns
# predict, are saved as `.keras` without a warning, and cannot be loaded again.
#
# - MultiHeadAttention in int8: its inner layers have other variables than those
#   that loading builds.
# - gptq and awq, where the model tells its blocks by
#   `get_quantization_layer_structure`: a variable is missing in each layer. If
#   the blocks are given in the config instead, not even saving works: the
#   config holds layers, whose configs hold the config.
# A dense layer in int8 is loaded, and predicts the same.
#
# output seen:
#   Dense, int8: the same
#   MultiHeadAttention, int8: saved, then ValueError
#   Dense, gptq, blocks told by the model: saved, then ValueError
#   Dense, awq, blocks told by the model: saved, then ValueError
#   Dense, gptq, blocks in the config: RecursionError when saved
#   Dense, awq, blocks in the config: RecursionError when saved
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 tensorflow-cpu==2.21.0 \
  numpy==2.4.6
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" -W ignore - <<'PYTHON' | grep -E '^(Dense|Multi)' | tee "$folder/output"
import keras
import numpy as np
from keras import layers

x = np.random.default_rng(0).normal(size=(4, 16)).astype("float32")


@keras.saving.register_keras_serializable()
class Told(keras.Sequential):
    def get_quantization_layer_structure(self, mode=None):
        return {"pre_block_layers": [], "sequential_blocks": [self.layers[0]]}


def dense(cls=keras.Sequential):
    return cls([keras.Input((16,)), layers.Dense(16), layers.Dense(8)])


def attention():
    inputs = keras.Input((16,))
    hidden = layers.Reshape((4, 4))(inputs)
    return keras.Model(inputs, layers.MultiHeadAttention(2, 8)(hidden, hidden))


def tell(what, model):
    expected = model.predict(x, verbose=0)
    try:
        model.save("model.keras")
    except RecursionError:
        print(f"\n{what}: RecursionError when saved")
        return
    try:
        again = keras.saving.load_model("model.keras")
    except ValueError:
        print(f"\n{what}: saved, then ValueError")
        return
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, rtol=1e-6)
    print(f"\n{what}: the same")


model = dense()
model.quantize("int8")
tell("Dense, int8", model)
model = attention()
model.quantize("int8")
tell("MultiHeadAttention, int8", model)
for inside in (False, True):
    for mode, config in (
        ("gptq", keras.quantizers.GPTQConfig),
        ("awq", keras.quantizers.AWQConfig),
    ):
        model = dense() if inside else dense(Told)
        more = {}
        if inside:
            more["quantization_layer_structure"] = {
                "pre_block_layers": [],
                "sequential_blocks": [model.layers[0]],
            }
        data = dict(dataset=[x[:1], x[1:2]], tokenizer=lambda text: text)
        sizes = dict(num_samples=2, sequence_length=16, group_size=8)
        model.quantize(mode, config=config(**data, **sizes, **more))
        where = "in the config" if inside else "told by the model"
        tell(f"Dense, {mode}, blocks {where}", model)
PYTHON
grep -qx 'Dense, int8: the same' "$folder/output"
grep -qx 'MultiHeadAttention, int8: saved, then ValueError' "$folder/output"
for mode in gptq awq; do
  grep -qx "Dense, $mode, blocks told by the model: saved, then ValueError" "$folder/output"
  grep -qx "Dense, $mode, blocks in the config: RecursionError when saved" "$folder/output"
done
