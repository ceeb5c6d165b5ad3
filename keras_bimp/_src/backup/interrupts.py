"""Delay SIGTERM and Ctrl-C until a step is finished."""

import signal
import threading


class Interrupts:
    """Lets a `fit` finish its step and save before a signal ends it.

    The first SIGTERM or SIGINT is only recorded; a second one acts
    immediately. Signals that the program ignores stay ignored.
    """

    def __init__(self):
        self._before = {}
        self.asked = None

    def install(self) -> None:
        """Install the handlers, in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            if before not in (signal.SIG_IGN, None):
                self._before[number] = before
                signal.signal(number, self._note)

    def restore(self) -> None:
        """Restore the previous handlers."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, before)
        self._before = {}

    def act(self) -> None:
        """Act on the recorded signal, if any."""
        if self.asked is None:
            return
        number, self.asked = self.asked, None
        before = self._before.get(number, signal.SIG_DFL)
        self.restore()
        if number == signal.SIGTERM and before == signal.SIG_DFL:
            # Like the signal, but files are closed and `finally` runs.
            raise SystemExit(128 + number)
        signal.raise_signal(number)

    def _note(self, number, frame):
        again = self.asked is not None
        self.asked = number
        if again:
            self.act()
