#!/usr/bin/env bash
# keras==3.15.1: `kernel_constraint` holds after each step, but not in the model
# that `fit` returns if the optimizer has `use_ema=True`. Each step averages the
# weights before the constraint is applied to them, and the average, which takes
# their place at the end, is not constrained. So weights under NonNeg are
# negative, and weights that a constraint held at 0 in every step are not 0.
#
# output seen:
#   NonNeg, use_ema=False: broken by 0.0 in training, 0.0 after fit
#   NonNeg, use_ema=True: broken by 0.0 in training, 0.5 after fit
#   Pruned, use_ema=False: broken by 0.0 in training, 0.0 after fit
#   Pruned, use_ema=True: broken by 0.0 in training, 0.5 after fit
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 jax==0.10.2 numpy==2.4.6
cd "$folder"
KERAS_BACKEND=jax venv/bin/python -W ignore - <<'PYTHON' | tee output
import keras
import numpy as np

mask = np.arange(48).reshape(8, 6) % 2


class Pruned(keras.constraints.Constraint):
    def __call__(self, weights):
        return weights * mask


def broken(kernel, constraint):
    wrong = np.minimum(kernel, 0) if constraint == "NonNeg" else kernel * (1 - mask)
    return np.abs(wrong).max()


generator = np.random.default_rng(0)
x = generator.normal(size=(64, 8)).astype("float32")
y = -3 * x[:, :6]
for constraint in (keras.constraints.NonNeg(), Pruned()):
    name = type(constraint).__name__
    for use_ema in (False, True):
        keras.utils.set_random_seed(0)
        dense = keras.layers.Dense(6, kernel_constraint=constraint)
        model = keras.Sequential([keras.Input((8,)), dense])
        model.compile(keras.optimizers.SGD(0.5, use_ema=use_ema, ema_momentum=0.5), "mse")
        # `train_on_batch` ends without the average.
        for _ in range(8):
            model.train_on_batch(x, y)
        before = broken(np.asarray(dense.kernel), name)
        model.fit(x, y, batch_size=64, epochs=8, verbose=0)
        after = broken(np.asarray(dense.kernel), name)
        print(
            f"{name}, use_ema={use_ema}: broken by {before:.1f} in training, "
            f"{after:.1f} after fit"
        )
PYTHON
for constraint in NonNeg Pruned; do
  grep -qx "$constraint, use_ema=False: broken by 0.0 in training, 0.0 after fit" output
  grep -qE "^$constraint, use_ema=True: broken by 0\.0 in training, (0\.[1-9]|[1-9])[0-9.]* after fit$" output
done
