"""Training under the strategies of `tf.distribute`, in a separate process.

One processor simulates two devices.
"""

import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import TOTAL
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import masked
from helpers import wrapped
from helpers import zeros
from two_replicas import dense_model_without_batch_norm
from two_replicas import mirrored

import keras_bimp
from keras_bimp._src import schedules
from keras_bimp._src import slots

pytestmark = pytest.mark.job("replicas")


def copies(variable):
    """Returns the value of each replica."""
    return [np.array(value) for value in variable.value.values]


class Watch(keras.callbacks.Callback):
    """Checks that replicas are equal, and that pruned entries are 0."""

    def check(self):
        layer = masked(self.model)
        optimizer = self.model.optimizer
        kernels = [kernel.variable for kernel in layer.kernels]
        schedule = slots.innermost(optimizer)._learning_rate
        assert isinstance(schedule, schedules.Joined)
        for variable in (
            *kernels,
            *layer.masks,
            *slots.all_slots(optimizer),
            *schedule.variables,
        ):
            first, second = copies(variable)
            np.testing.assert_array_equal(first, second, variable.path)
        for kernel, mask, remembered in zip(
            kernels, layer.masks, slots.slots(optimizer, kernels), strict=True
        ):
            pruned = ~copies(mask)[0]
            for variable in (kernel, *(slot for slot, _ in remembered)):
                assert (copies(variable)[0][pruned] == 0).all()

    def on_epoch_begin(self, epoch, logs=None):
        self.check()

    def on_train_batch_end(self, batch, logs=None):
        self.check()

    def on_epoch_end(self, epoch, logs=None):
        self.check()


def sgd(**kwargs):
    return keras.optimizers.SGD(0.1, momentum=0.9, **kwargs)


def train(model, **kwargs):
    ours = keras_bimp.callbacks(
        0.8, dense_epochs=2, cycles=2, verbose=0, **kwargs
    )
    return fit(model, 6, [*ours, Watch()]).history


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        (sgd, {}),
        (lambda: keras.optimizers.AdamW(0.01, clipnorm=1.0), {}),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                (sgd, {"criterion": "saliency", "data": data()}),
                (sgd, {"retraining": "accallr", "data": data()}),
                (sgd, {"retraining": "wr"}),
                (lambda: keras.optimizers.LossScaleOptimizer(sgd()), {}),
                (lambda: sgd(use_ema=True, global_clipnorm=1.0), {}),
                (lambda: keras.optimizers.Muon(0.01), {}),
            )
        ),
    ],
)
def test_replicas_hold_the_same_and_pruned_weights_stay_zero(
    optimizer, arguments
):
    with mirrored().scope():
        model = wrapped(optimizer())
    history = train(model, **arguments)
    assert zeros(model) == round(0.8 * TOTAL)
    assert history["sparsity"][-1] == zeros(model) / TOTAL


def test_it_trains_as_one_device_does():
    with mirrored().scope():
        model = wrapped(sgd(), dense_model_without_batch_norm())
    alone = wrapped(sgd(), dense_model_without_batch_norm())
    history = train(model)
    ours = keras_bimp.callbacks(0.8, dense_epochs=2, cycles=2, verbose=0)
    expected = fit(alone, 6, ours).history
    for name in ("loss", "learning_rate", "discount", "norm_drop"):
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5)
    for mine, theirs in zip(
        masked(model).masks, masked(alone).masks, strict=True
    ):
        np.testing.assert_array_equal(copies(mine)[0], theirs.numpy())


def test_a_model_wrapped_outside_the_scope_is_trained_in_it():
    with mirrored().scope():
        model = compile_model(dense_model())
    model = keras_bimp.wrap(model)
    assert model.distribute_strategy is mirrored()
    train(model)
    assert zeros(model) == round(0.8 * TOTAL)


@pytest.mark.slow
def test_fit_and_prune_may_be_called_inside_the_scope():
    with mirrored().scope():
        model = wrapped(sgd())
        train(model)
        keras_bimp.prune(model, 0.82, criterion="saliency", data=data())
    for mask in masked(model).masks:
        np.testing.assert_array_equal(*copies(mask))
    assert zeros(model) == round(0.82 * TOTAL)


@pytest.mark.slow
def test_a_model_saved_in_the_scope_loads_outside(tmp_path):
    with mirrored().scope():
        model = wrapped(sgd(), dense_model_without_batch_norm())
    train(model)
    model.save(tmp_path / "model.keras")
    x, _ = data()
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        again.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )
    stripped = keras_bimp.strip(model)
    assert keras_bimp.sparsity(stripped).prunable == 58 / TOTAL


@pytest.mark.slow
def test_a_model_saved_in_mid_run_goes_on_in_the_scope(tmp_path):
    def run(model, **kwargs):
        ours = keras_bimp.callbacks(0.8, dense_epochs=2, cycles=2, verbose=0)
        save = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
        return fit(model, 6, [*ours, save], **kwargs).history["loss"]

    with mirrored().scope():
        model = wrapped(sgd(), dense_model_without_batch_norm())
    losses = run(model)
    with mirrored().scope():
        again = keras.models.load_model(tmp_path / "5.keras")
    np.testing.assert_allclose(
        run(again, initial_epoch=5), losses[5:], rtol=1e-6
    )
    for one, other in zip(
        masked(model).masks, masked(again).masks, strict=True
    ):
        np.testing.assert_array_equal(copies(one)[0], copies(other)[0])


@pytest.mark.parametrize(
    ("optimizer", "arguments", "message"),
    [
        ({"gradient_accumulation_steps": 2}, {}, "gradient_accumulation_steps"),
        (
            {"use_ema": True, "ema_overwrite_frequency": 3},
            {},
            "ema_overwrite_frequency",
        ),
        ({}, {"steps_per_execution": 2}, "steps_per_execution"),
    ],
)
def test_what_keras_cannot_do_is_refused_in_time(optimizer, arguments, message):
    import tensorflow as tf

    with mirrored().scope():
        model = wrapped(sgd(**optimizer), **arguments)
    before = [copies(v)[0] for v in model.trainable_variables]
    with pytest.raises(ValueError, match=f"`{message}`"):
        train(model)
    for old, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, copies(variable)[0])
    # Delete this once Keras supports it.
    with mirrored().scope():
        plain = compile_model(dense_model(), sgd(**optimizer), **arguments)
    with pytest.raises(
        (RuntimeError, tf.errors.InvalidArgumentError),
        match=r"merge_call|Placeholder",
    ):
        fit(plain, 4)


@pytest.mark.slow
def test_one_device():
    import tensorflow as tf

    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        model = wrapped(sgd(gradient_accumulation_steps=2))
    ours = keras_bimp.callbacks(0.8, dense_epochs=2, cycles=2, verbose=0)
    fit(model, 6, ours)
    assert zeros(model) == round(0.8 * TOTAL)


WORKER = """
import sys
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()

import keras
import keras_bimp
import numpy as np

with strategy.scope():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    if "ours" in sys.argv:
        model = keras_bimp.wrap(model)
    model.compile("sgd", "mse")
callbacks = []
if "ours" in sys.argv:
    callbacks = keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0)
try:
    model.fit(
        np.ones((16, 6)), np.ones((16, 3)), epochs=2, callbacks=callbacks,
        verbose=0,
    )
except ValueError as error:
    print("ValueError:", str(error).splitlines()[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [("ours", "examples/multi_host.py"), ("keras", "PerReplica")],
)
def test_several_workers_are_told_of_the_alternative(kind, message):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, kind],
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": {
                            "worker": [f"localhost:{port}" for port in ports]
                        },
                        "task": {"type": "worker", "index": i},
                    }
                ),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    for out, err in outputs:
        assert message in out, err
