"""SIGTERM and Ctrl-C, which wait until a step is finished."""

import signal
import threading
import weakref

import keras

from keras_bimp.beside import is_in_fit


class Interrupts:
    """Lets a `fit` finish its step and save before a signal ends it.

    The first SIGTERM or SIGINT is noted only; a second one, or one that comes
    when `fit` is not running any more, acts at once. A signal that the program
    ignores stays ignored.

    Args:
        callback: The callback in whose `fit` they are to wait.
    """

    def __init__(self, callback: keras.callbacks.Callback):
        self._callback = weakref.ref(callback)
        self._before = {}
        self.asked = None

    def install(self) -> None:
        """Takes the signals over, in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            before = _unless_dead(number, signal.getsignal(number))
            if before not in (signal.SIG_IGN, None):
                self._before[number] = before
                signal.signal(number, self._note)

    def restore(self) -> None:
        """Gives the signals back."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, before)
        self._before = {}

    def act(self) -> None:
        """Does what the signal that was noted asked for, if one was."""
        if self.asked is None:
            return
        number, self.asked = self.asked, None
        before = self.before(number)
        self.restore()
        if number == signal.SIGTERM and before == signal.SIG_DFL:
            # As the signal would, but files are closed and `finally` runs.
            raise SystemExit(128 + number)
        signal.raise_signal(number)

    def _note(self, number, frame):
        again = self.asked is not None
        self.asked = number
        # A `fit` that died has left its handlers.
        if again or not is_in_fit(self._callback(), frame):
            self.act()

    def is_dead(self) -> bool:
        """Whether its `fit` ended with an exception, and left it behind."""
        return not is_in_fit(self._callback())

    def before(self, number: int):
        """What handled a signal before."""
        return self._before.get(number, signal.SIG_DFL)


def _unless_dead(number, handler):
    """A handler, or the one before it if its `fit` is dead."""
    owner = getattr(handler, "__self__", None)
    while isinstance(owner, Interrupts) and owner.is_dead():
        handler = owner.before(number)
        owner = getattr(handler, "__self__", None)
    return handler
