import keras
import numpy as np
import pytest
from helpers import STEPS
from helpers import RecordingSGD
from helpers import data
from helpers import fit
from helpers import rates_of
from helpers import recorded
from helpers import skip_unless_steps_run_together
from helpers import wrapped

import keras_bimp
from keras_bimp import RecordLearningRate
from keras_bimp._src import schedules

pytestmark = pytest.mark.slow

COSINE = keras.optimizers.schedules.CosineDecay(0.1, 40)


class Plateau(keras.callbacks.ReduceLROnPlateau):
    """Reduces the learning rate immediately."""

    def __init__(self):
        super().__init__(monitor="loss", min_delta=1e9, patience=1, factor=0.5)


class EveryBatch(keras.callbacks.Callback):
    """Changes the learning rate between batches."""

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = 0.01 * (batch + 1)


@pytest.mark.parametrize("together", [1, 3, 8])
@pytest.mark.parametrize("kind", ["number", "schedule", "plateau", "batches"])
def test_it_records_what_the_compiled_step_used(kind, together):
    if together > 1:
        skip_unless_steps_run_together()
    optimizer = RecordingSGD(COSINE if kind == "schedule" else 0.1)
    model = wrapped(optimizer, steps_per_execution=together)
    others = {"plateau": [Plateau()], "batches": [EveryBatch()]}.get(kind, [])
    record = RecordLearningRate()
    fit(model, 5, [record, *others], batch_size=8)
    expected = recorded(optimizer)[: 5 * 8]
    np.testing.assert_allclose(record.values(), expected, rtol=1e-6, atol=1e-8)
    different = len(set(expected.tolist()))
    # Eight steps together are a whole epoch.
    if together < 8:
        assert (different > 1) == (kind != "number")


@pytest.mark.parametrize("rate", [0.1, COSINE])
def test_it_counts_calls_of_the_schedule(rate):
    # With gradient accumulation each batch counts, although it is no update.
    optimizer = RecordingSGD(rate, gradient_accumulation_steps=2)
    record = RecordLearningRate()
    fit(wrapped(optimizer), 3, [record])
    assert len(record.values()) == 3 * STEPS
    updates = recorded(optimizer)[: 3 * STEPS]
    np.testing.assert_allclose(
        record.values()[updates > -1], updates[updates > -1], rtol=1e-6
    )


def test_a_second_fit_goes_on_counting_but_starts_afresh():
    optimizer = RecordingSGD(COSINE)
    model = wrapped(optimizer)
    record = RecordLearningRate()
    fit(model, 2, [record])
    fit(model, 3, [record])
    np.testing.assert_allclose(
        record.values(),
        recorded(optimizer)[2 * STEPS :][: 3 * STEPS],
        rtol=1e-6,
    )


def test_it_saves_and_goes_on_with_a_run_that_was_stopped(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 3 * STEPS + 2:
                raise RuntimeError("power cut")

    path = tmp_path / "new" / "rates.npz"
    whole = RecordLearningRate()
    fit(wrapped(RecordingSGD(COSINE)), 6, [whole])

    def start(*more):
        model = wrapped(RecordingSGD(COSINE))
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        fit(model, 6, [RecordLearningRate(path), backup, *more])

    with pytest.raises(RuntimeError, match="power cut"):
        start(Stop())
    assert len(RecordLearningRate(path).values()) == 3 * STEPS
    start()
    record = RecordLearningRate(path)
    np.testing.assert_array_equal(record.values(), whole.values())
    assert [p.name for p in path.parent.iterdir()] == ["rates.npz"]


def test_it_warns_of_a_record_with_a_hole():
    record = RecordLearningRate()
    model = wrapped()
    with pytest.warns(UserWarning, match=r"`fit`.* 2\b.* 0 "):
        fit(model, 3, [record], initial_epoch=2)
    assert len(record.values()) == STEPS


def test_a_record_is_what_original_takes():
    model = wrapped(keras.optimizers.SGD(COSINE))
    record = RecordLearningRate()
    fit(model, 10, [record])
    rates = [float(COSINE(i)) for i in range(10 * STEPS)]
    np.testing.assert_allclose(record.values(), rates, rtol=1e-5, atol=1e-8)
    optimizer = RecordingSGD(0.1)
    (callback,) = keras_bimp.callbacks(
        0.5, dense_epochs=0, retraining="lrw", original=record, verbose=0
    )
    fit(wrapped(optimizer), 3, [callback])
    np.testing.assert_allclose(
        recorded(optimizer)[: 3 * STEPS],
        rates[7 * STEPS :],
        rtol=1e-5,
        atol=1e-8,
    )
    # So are other schedules of known length, and plans.
    for source in (schedules.Recorded(record), callback.plan):
        assert len(schedules.original_rates(source)) in (40, 12)


def test_the_dense_phase_is_the_original_of_its_own_retraining():
    record = RecordLearningRate()
    (callback,) = keras_bimp.callbacks(
        0.5, dense_epochs=5, retraining="lrw", verbose=0, dense_schedule=COSINE
    )
    fit(wrapped(), 8, [callback, record])
    rates = record.values()
    np.testing.assert_allclose(rates[20:], rates[8:20], rtol=1e-6)
    np.testing.assert_allclose(rates, rates_of(callback), rtol=1e-6)


def test_bad_input(tmp_path):
    path = tmp_path / "rates.npz"
    for content in (b"", b"no record", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"`filepath`.*filepath=.*rates\.npz"
        ):
            RecordLearningRate(path)
    np.savez(path, other=[1.0])
    with pytest.raises(ValueError, match=r"`filepath`.*`RecordLearningRate`"):
        RecordLearningRate(path)
    with pytest.raises(ValueError, match=r"`original`.*`RecordLearningRate`"):
        schedules.FT(RecordLearningRate(), 3)
    optimizer = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.Adam(0.01))
    )
    x, y = data()
    with pytest.raises(ValueError, match="MultiOptimizer"):
        wrapped(optimizer).fit(
            x, y, verbose=0, callbacks=[RecordLearningRate()]
        )
