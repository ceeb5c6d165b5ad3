"""One run of keras_bimp, in a separate process."""

import json
import sys

import keras
import numpy as np

import keras_bimp

from . import training


def dense(network, rate, run):
    return network, rate, []


def gmp(network, rate, run):
    recipe = keras_bimp.baselines.gmp(
        run["target_sparsity"],
        interval=run["interval"],
        hard=True,
        allocation=run["allocation"],
        verbose=0,
    )
    model = keras_bimp.wrap(network, rule=recipe.rule)
    return model, rate, recipe.callbacks


def bimp(network, rate, run):
    callbacks = keras_bimp.callbacks(run["target_sparsity"], verbose=0)
    return keras_bimp.wrap(network), run["learning_rate"], callbacks


METHODS = {"keras": dense, "gmp": gmp, "gmp_uniform": gmp, "bimp": bimp}


def main(run, data):
    arrays = np.load(data)
    x, y = training.few_of(arrays, run)
    steps = training.steps_per_epoch(x, run)
    network = training.build_network(keras, x.shape[1:], run)
    rate = training.linear_rate(keras, run, steps)
    model, rate, callbacks = METHODS[run["method"]](network, rate, run)
    training.compile_model(keras, model, rate)
    losses, seconds = training.train(keras, model, x, y, run, callbacks)
    if model is not network:
        network = keras_bimp.strip(model)
    found = training.judge(network, arrays)
    print(json.dumps(found | {"losses": losses, "seconds": seconds}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
