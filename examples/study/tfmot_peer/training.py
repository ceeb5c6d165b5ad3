"""Common parts of both sides: the network, its weights, data and training.

`keras` is Keras 3 or tf_keras. All names used here are the same in both. A run
is a dict; see `beside_tfmot.py`.
"""

import sys
import time

import numpy as np
import tensorflow as tf


def build_network(keras, input_shape, run):
    """Builds a residual network of 77,000 weights for 32x32 images.

    Its first convolution is strided, so that an epoch of 10,000 images takes a
    few seconds on two cores.
    """
    regularizer = keras.regularizers.L2(run["weight_decay"] / 2)

    def convolution(x, filters, size=3, strides=1):
        x = keras.layers.Conv2D(
            filters,
            size,
            strides,
            padding="same",
            use_bias=False,
            kernel_regularizer=regularizer,
        )(x)
        return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    def block(x, filters):
        shortcut, strides = x, 1
        if x.shape[-1] != filters:
            strides = 2
            shortcut = convolution(x, filters, 1, strides)
        x = keras.layers.ReLU()(convolution(x, filters, strides=strides))
        x = keras.layers.Add()([convolution(x, filters), shortcut])
        return keras.layers.ReLU()(x)

    inputs = keras.Input(input_shape)
    x = convolution(inputs, run["width"], strides=2)
    x = keras.layers.ReLU()(x)
    for times in (1, 2, 4):
        x = block(x, times * run["width"])
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(10, kernel_regularizer=regularizer)(x)
    model = keras.Model(inputs, outputs)
    initialize(model, run["seed"])
    return model


def kernels(model):
    return [v for v in model.trainable_weights if len(v.shape) > 1]


def initialize(model, seed):
    """Sets the kernels to He-normal values, drawn with NumPy.

    Keras' initializers differ between its versions.
    """
    rng = np.random.default_rng(seed)
    for kernel in kernels(model):
        shape = tuple(kernel.shape)
        scale = (2 / np.prod(shape[:-1])) ** 0.5
        kernel.assign((scale * rng.standard_normal(shape)).astype("float32"))


def few_of(arrays, run):
    """Returns the training images; in a run of turns, those of one turn."""
    x, y = arrays["x"], arrays["y"]
    if "turn_steps" in run:
        few = run["turn_steps"] * run["batch_size"]
        x, y = x[:few], y[:few]
    return x, y


def steps_per_epoch(x, run):
    return -(-len(x) // run["batch_size"])


def batches(x, y, run):
    """Returns all epochs in an order that depends only on the seed.

    `Dataset.shuffle` does not work here: Keras 3 reads the first batch before
    training, which would change the order of each epoch.
    """
    x, y = tf.constant(x), tf.constant(y)

    def of_epoch(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(x)), [tf.constant(run["seed"], tf.int64), epoch]
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(
            run["batch_size"]
        )

    indices = tf.data.Dataset.range(run["epochs"]).flat_map(of_epoch)
    return indices.map(lambda i: (tf.gather(x, i), tf.gather(y, i))).prefetch(2)


def linear_rate(keras, run, steps):
    """Returns a linear decay to 0 over the whole training."""
    return keras.optimizers.schedules.PolynomialDecay(
        run["learning_rate"], run["epochs"] * steps, 0.0
    )


def compile_model(keras, model, rate):
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Compiling takes longer than an epoch, and tfmot's step cannot be
        # compiled.
        jit_compile=False,
    )


class Turns:
    """Times epochs; when taking turns, waits for a line before each.

    Args:
        wait: Whether to wait before each epoch except the first, in which the
            step is traced, and to print the time of each epoch.
    """

    def __init__(self, wait):
        self.seconds = []
        self._wait = wait

    def begin(self, epoch, logs=None):
        if self._wait and epoch:
            if epoch == 1:
                print("ready", flush=True)
            if not sys.stdin.readline():
                raise SystemExit("the process that assigns turns has ended")
        self._begun = time.perf_counter()

    def end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._begun)
        if self._wait and epoch:
            print(self.seconds[-1], flush=True)


def train(keras, model, x, y, run, callbacks):
    """Trains a compiled model.

    Returns:
        The loss and the seconds of each epoch.
    """
    turns = Turns("turn_steps" in run)
    around = keras.callbacks.LambdaCallback
    history = model.fit(
        batches(x, y, run),
        epochs=run["epochs"],
        steps_per_epoch=steps_per_epoch(x, run),
        shuffle=False,
        # Times what the other callbacks do before and after an epoch, too.
        callbacks=[
            around(on_epoch_begin=turns.begin),
            *callbacks,
            around(on_epoch_end=turns.end),
        ],
        verbose=0,
    ).history
    return history["loss"], turns.seconds


def judge(model, arrays):
    """Returns test accuracy in percent, and the sparsity of the kernels."""
    logits = model.predict(arrays["x_test"], batch_size=1000, verbose=0)
    values = [kernel.numpy() for kernel in kernels(model)]
    zeros = sum(int((value == 0).sum()) for value in values)
    return {
        "accuracy": 100 * float(np.mean(logits.argmax(-1) == arrays["y_test"])),
        "sparsity": zeros / sum(value.size for value in values),
    }
