"""A running `fit`: its record, and what it leaves behind."""

import concurrent.futures
import gc
import logging
import os
import signal
import weakref
from contextlib import nullcontext

import keras
import numpy as np
import pytest
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import wrapped
from keras import layers

import keras_bimp
from keras_bimp._src.fitting import fit_of
from keras_bimp.backup import EpochData


def ours(**kwargs):
    arguments = {"dense_epochs": 2, "cycles": 2, "verbose": 0, **kwargs}
    return keras_bimp.callbacks(0.75, **arguments)


class Look(keras.callbacks.Callback):
    """Keeps the current `Fit`."""

    def on_train_begin(self, logs=None):
        self.fit = fit_of(self)


# The record.


@pytest.mark.every_backend
def test_all_that_fit_was_given_is_known():
    model, look = wrapped(), Look()
    validation = data(32, seed=1)
    stopping = keras.callbacks.EarlyStopping("loss", patience=9)
    fit(
        model,
        1,
        [stopping, look],
        validation_data=validation,
        validation_batch_size=8,
    )
    assert look.fit.known
    assert look.fit.callbacks == [stopping, look]
    assert look.fit.validation["x"] is validation[0]
    assert look.fit.validation["batch_size"] == 8
    # It is removed.
    assert "_keras_bimp_fit" not in vars(model)


def test_data_and_callbacks_are_known_by_place_too():
    model, look = wrapped(), Look()
    x, y = data()
    callbacks = keras.callbacks.CallbackList(
        [look], add_history=True, model=model, epochs=1, steps=4, verbose=0
    )
    model.fit(x, y, 16, 1, 0, callbacks, 0.25)
    assert look.fit.data is x
    assert look in look.fit.callbacks
    np.testing.assert_array_equal(look.fit.validation["x"], x[48:])
    assert look.fit.validation["batch_size"] == 16


def test_a_class_may_pass_on_what_its_own_fit_is_given():
    class Own(keras.Sequential):
        def fit(self, *args, **kwargs):
            return super().fit(*args, **kwargs)

    model = compile_model(Own([keras.Input((6,)), layers.Dense(3)]))
    look, (x, y) = Look(), data()
    keras_bimp.fit(model, x, y, 16, verbose=0, callbacks=[look])
    assert look.fit.data is x
    assert look.fit.callbacks == [look]


def test_a_callback_that_another_one_calls_is_known():
    ours_alone = ours()[0]

    class Around(keras.callbacks.Callback):
        def __getattribute__(self, name):
            if name.startswith("on_") or name in ("set_model", "set_params"):
                return getattr(ours_alone, name)
            return super().__getattribute__(name)

    model = wrapped()
    fit(model, 6, [Around()])
    assert keras_bimp.sparsity(model).prunable == 0.75


def test_what_leads_is_listed_before_a_backup(tmp_path):
    class Leads(keras_bimp.backup.Resumable):
        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    model = wrapped()
    with pytest.raises(ValueError, match=r"`Backup`.*after.*Leads"):
        fit(model, 6, [*ours(backup_dir=tmp_path), Leads()])
    fit(model, 6, [Leads(), *ours(backup_dir=tmp_path)])
    assert keras_bimp.sparsity(model).prunable == 0.75


def test_a_fit_within_another_is_its_own():
    inner, outer, seen = wrapped(), wrapped(), []

    class Nest(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            look = Look()
            fit(inner, 1, [look])
            seen.append((look.fit, fit_of(self)))

    nest = Nest()
    fit(outer, 2, [nest])
    for one, other in seen:
        assert one is not other
        assert other.callbacks == [nest]
    assert seen[0][1] is seen[1][1]


def test_fits_of_threads_know_their_own_callbacks():
    looks = [Look() for _ in range(4)]
    models = [wrapped() for _ in looks]

    def run(i):
        fit(models[i], 2, [looks[i]])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    for look in looks:
        assert look.fit.callbacks == [look]


def test_old_data_are_left_alone_by_a_fit_on_arrays(tmp_path):
    model = wrapped()
    batches = EpochData(*data(), batch_size=16)
    model.fit(batches, epochs=1, verbose=0)
    batches.epoch = 7
    fit(model, 3, ours(dense_epochs=1, cycles=1, backup_dir=tmp_path))
    assert batches.epoch == 7


# A model that keeps its class.

NAMED = r"`keras_bimp\.fit"


def with_masks_inside():
    return compile_model(
        keras.Sequential(
            [keras.Input((6,)), keras_bimp.Masked(layers.Dense(3))]
        )
    )


@pytest.mark.every_backend
def test_a_model_of_any_class_is_trained_by_a_function():
    model, look = with_masks_inside(), Look()
    keras_bimp.fit(
        model, *data(), epochs=6, verbose=0, callbacks=[look, *ours()]
    )
    assert look.fit.known
    assert keras_bimp.sparsity(model).prunable == pytest.approx(0.75, abs=0.05)


def test_its_own_fit_prunes_too_and_nothing_is_said(tmp_path):
    model = with_masks_inside()
    for folder in "ab":
        callbacks = ours(cycles=1, backup_dir=tmp_path / folder)
        model.fit(*data(), epochs=6, verbose=0, callbacks=callbacks)
        assert "_keras_bimp_fit" not in vars(model)
    assert keras_bimp.sparsity(model).prunable == pytest.approx(0.75, abs=0.05)


def test_its_own_fit_is_warned_of_once_if_it_validates():
    model = with_masks_inside()
    for expected in (pytest.warns(UserWarning, match=NAMED), nullcontext()):
        with expected:
            model.fit(
                *data(),
                epochs=6,
                verbose=0,
                callbacks=ours(cycles=1),
                validation_data=data(32, seed=1),
            )


def test_its_own_fit_is_warned_of_if_it_resumes(tmp_path):
    class Die(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise DeadError

    def run(*more):
        model = compile_model(dense_model())
        backup = keras_bimp.Backup(tmp_path, verbose=0)
        model.fit(*data(), epochs=4, verbose=0, callbacks=[backup, *more])

    with pytest.raises(DeadError):
        run(Die())
    with pytest.warns(UserWarning, match=NAMED):
        run()
    run()  # All is done: nothing is lost.


def test_its_own_fit_that_died_is_undone_by_the_next_one(tmp_path):
    model = with_masks_inside()
    before = signal.getsignal(signal.SIGTERM)

    class Die(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise DeadError

    x, y = data()
    callbacks = [*ours(backup_dir=tmp_path), Die()]
    with pytest.raises(DeadError):
        model.fit(x, y, epochs=6, verbose=0, callbacks=callbacks)
    model.fit(
        x, y, epochs=6, verbose=0, callbacks=ours(backup_dir=tmp_path / "2")
    )
    assert signal.getsignal(signal.SIGTERM) == before
    assert isinstance(model.optimizer.learning_rate, keras.Variable)


def test_data_of_a_plain_model_have_the_order_of_each_epoch(tmp_path):
    seen = []

    class Ordered(EpochData):
        def __getitem__(self, index):
            seen.append((self.epoch, index))
            return super().__getitem__(index)

    batches = Ordered(*data(), batch_size=16)
    keras_bimp.fit(
        compile_model(dense_model()),
        batches,
        epochs=5,
        initial_epoch=3,
        verbose=0,
        callbacks=[keras_bimp.Backup(tmp_path, verbose=0)],
    )
    assert {3, 4} <= {epoch for epoch, _ in seen} <= {0, 3, 4}


# A fit that dies.


class DeadError(Exception):
    pass


class Dies(keras.callbacks.Callback):
    """Ends a `fit` at the beginning of an epoch or within it."""

    def __init__(self, way, epoch, batch=None):
        super().__init__()
        self.way, self.at, self.batch = way, epoch, batch
        self.now = None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch
        if self.batch is None and epoch == self.at:
            self.way(self.model)

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.at, self.batch):
            self.way(self.model)


def error(model):
    raise DeadError


def interrupt(model):
    raise KeyboardInterrupt


def ctrl_c(model):
    os.kill(os.getpid(), signal.SIGINT)


def breaks(model):
    kernel = model.trainable_variables[0]
    kernel.assign(np.full(kernel.shape, np.nan))


def state(model):
    return (
        [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)],
        [v.path for v in model.optimizer.variables],
        float(array(model.optimizer.learning_rate)),
        [name for name in vars(model.optimizer) if "bimp" in name],
        "save_own_variables" in vars(model.optimizer),
    )


@pytest.fixture(autouse=True)
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize(
    ("way", "raised"),
    [
        (error, DeadError),
        (interrupt, KeyboardInterrupt),
        (ctrl_c, KeyboardInterrupt),
        (breaks, None),
    ],
)
@pytest.mark.parametrize("moment", [(1, 2), (2, None), (3, 1)])
def test_a_fit_that_dies_leaves_all_as_it_was(way, raised, moment, tmp_path):
    """Tries the dense phase, a pruning and a cycle."""
    model = wrapped(keras.optimizers.SGD(0.25, momentum=0.9))
    fit(model, 1)
    before = state(model)
    callbacks = [*ours(backup_dir=tmp_path / "a"), Dies(way, *moment)]
    if raised is None:
        with pytest.warns(RuntimeWarning, match="stopped"):
            fit(model, 6, callbacks)
    else:
        with pytest.raises(raised):
            fit(model, 6, callbacks)
    assert state(model) == before
    assert "_keras_bimp_fit" not in vars(model)
    if raised is None:
        return
    # The compiled step has the old rate: runs one step with it.
    kernel = model.wrapper.kernels[0].variable
    model.optimizer.learning_rate = 0.0
    for slot in model.optimizer.momentums:
        slot.assign(np.zeros(slot.shape))
    expected = array(kernel)
    fit(model, 1)
    np.testing.assert_array_equal(array(kernel), expected)
    model.optimizer.learning_rate = 0.25
    fit(model, 6, ours(backup_dir=tmp_path / "b"))
    assert keras_bimp.sparsity(model).prunable == 0.75


# Models are freed.


@keras.saving.register_keras_serializable("fitting_test")
class OwnKernel(keras.Model):
    def __init__(self):
        super().__init__()
        self.own_kernel = self.add_weight(shape=(6, 3), name="own_kernel")
        self.built = True

    def call(self, x):
        return keras.ops.matmul(x, self.own_kernel)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def functional():
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(inputs))


@pytest.mark.every_backend
@pytest.mark.parametrize(
    "make", [dense_model, functional, OwnKernel, Subclassed]
)
def test_a_stripped_model_is_freed(make, tmp_path):
    def stripped():
        plain = make()
        plain(np.zeros((1, 6), "float32"))
        model = compile_model(keras_bimp.wrap(plain))
        fit(model, 4, ours(dense_epochs=0, backup_dir=tmp_path))
        return keras_bimp.strip(model)

    model = stripped()
    kernels, _ = keras_bimp._src.masking.masked_kernels(model)
    assert kernels
    assert kernels[0].layer is not None
    assert keras_bimp._src.model_record.progress_of(model).complete
    alive = weakref.ref(model)
    del model, kernels
    gc.collect()
    assert alive() is None


# JAX compiles once.


class Compilations(logging.Handler):
    """Counts JAX's log messages about compilation."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def emit(self, record):
        text = record.getMessage()
        self.count += text.startswith("Compiling") and "train_step" in text


@pytest.mark.job("jax")
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: keras.optimizers.LossScaleOptimizer(
            keras.optimizers.Adam(0.01)
        ),
        lambda: keras.optimizers.Muon(0.01),
    ],
    ids=["SGD", "LossScaleOptimizer", "Muon"],
)
def test_prunings_compile_nothing(optimizer):
    import jax

    found = []
    for cycles in (1, 6):
        model, counted = wrapped(optimizer()), Compilations()
        logger = logging.getLogger("jax")
        logger.addHandler(counted)
        try:
            with jax.log_compiles():
                history = fit(model, 8, ours(cycles=cycles)).history
        finally:
            logger.removeHandler(counted)
        found.append(counted.count)
        assert keras_bimp.sparsity(model).prunable == 0.75
        assert len(set(history["sparsity"])) == cycles + 1
        for kernel in model.wrapper.kernels:
            assert (array(kernel.variable) == 0).mean() > 0.5
    assert found == [1, 1]
