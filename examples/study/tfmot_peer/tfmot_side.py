"""One run of tensorflow-model-optimization, in a separate process.

It prunes at the same steps and to the same sparsities as
`keras_bimp.baselines.gmp`.
"""

import json
import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from . import training


def wrap(network, run, steps):
    """Returns the network with pruning, and the callback for it."""
    between = run["interval"] * steps
    last = (run["epochs"] // run["interval"] - 1) * between
    # Its steps count from 1.
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=run["target_sparsity"],
        begin_step=1,
        end_step=1 + last,
        power=3,
        frequency=between,
    )
    model = tfmot.sparsity.keras.prune_low_magnitude(network, schedule)
    return model, [tfmot.sparsity.keras.UpdatePruningStep()]


def main(run, data):
    arrays = np.load(data)
    x, y = training.few_of(arrays, run)
    steps = training.steps_per_epoch(x, run)
    network = training.build_network(keras, x.shape[1:], run)
    model, callbacks = network, []
    if run["method"] == "tfmot":
        model, callbacks = wrap(network, run, steps)
    training.compile_model(
        keras, model, training.linear_rate(keras, run, steps)
    )
    losses, seconds = training.train(keras, model, x, y, run, callbacks)
    if callbacks:
        model = tfmot.sparsity.keras.strip_pruning(model)
    found = training.judge(model, arrays)
    print(json.dumps(found | {"losses": losses, "seconds": seconds}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
