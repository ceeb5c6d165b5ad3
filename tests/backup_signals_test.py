"""`Backup`: Ctrl-C and other signals."""

import concurrent.futures
import os
import signal

import keras
import pytest
from backup_runs import Kill
from backup_runs import assert_same
from backup_runs import epoch_data
from backup_runs import killed
from backup_runs import random_model
from backup_runs import train
from helpers import lines_with

from keras_bimp._src.backup import Generations


@pytest.fixture(autouse=True)
def interruptible():
    """Enables Ctrl-C, which background jobs of a shell may ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed"))


class Torn(keras.callbacks.Callback):
    """Sends signals to this process at the beginning of a batch."""

    def __init__(self, *numbers, epoch=3, batch=1, test=False):
        super().__init__()
        self.numbers, self.at, self.epoch = numbers, (epoch, batch), None
        self.test = test

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if not self.test:
            self.send(batch)

    def on_test_batch_begin(self, batch, logs=None):
        if self.test:
            self.send(batch)

    def send(self, batch):
        if (self.epoch, batch) == self.at:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.slow
@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)],
)
def test_a_signal_waits_for_the_step_and_its_backup(
    number, error, test, tmp_path, capsys, undisturbed
):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    # Validation has two batches, and continues to the second.
    torn = Torn(number, batch=0 if test else 1, test=test)
    with pytest.raises(error) as raised:
        train(tmp_path, torn, verbose=1)
    if error is SystemExit:
        assert raised.value.code == 143
    assert before == [
        signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)
    ]
    said = capsys.readouterr().out
    assert lines_with(said, "3", "5", "80.56%")
    state = Generations(tmp_path).read()
    # It only waited for the current step.
    assert (state["epoch"], state["batch"]) == (3, 4 if test else 2)
    assert_same(train(tmp_path), undisturbed)


def test_a_second_signal_acts_at_once(tmp_path):
    torn = Torn(signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, torn)
    state = Generations(tmp_path).read()
    assert (state["epoch"], state["batch"]) == (3, 0)


@pytest.mark.slow
def test_a_signal_after_a_fit_that_died_acts_at_once(tmp_path):
    ours = signal.getsignal(signal.SIGINT)
    killed(tmp_path, Kill("on_train_batch_end", 3, 2))
    assert signal.getsignal(signal.SIGINT) == ours
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    for _ in range(2):
        killed(tmp_path, Kill("on_train_batch_end", 3, 2))
    train(tmp_path)
    assert signal.getsignal(signal.SIGINT) == ours


def test_signals_are_left_alone_outside_the_main_thread(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(signal.getsignal(signal.SIGTERM))

    with concurrent.futures.ThreadPoolExecutor(1) as other:
        other.submit(train, tmp_path, Look()).result()
    assert set(seen) == {before}


def test_a_signal_in_a_plain_fit_after_one_that_died(tmp_path):
    model = random_model()
    killed(tmp_path, Kill("on_train_batch_end", 3, 2), model=model)
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            epoch_data(),
            epochs=5,
            verbose=0,
            callbacks=[Torn(signal.SIGINT, epoch=1)],
        )
    assert model.history.epoch == [0]
