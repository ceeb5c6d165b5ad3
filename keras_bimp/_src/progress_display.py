"""Shows that something is done, where it takes long."""

import contextlib
import sys
import threading
from collections.abc import Callable
from collections.abc import Iterator

from rich import progress
from rich.console import Console

# Seconds that nobody wonders about.
_PATIENCE = 2.0


class _Shown:
    """What `waiting` gives: tells which step it is, and how far that came."""

    def __init__(self, what):
        console = Console(file=sys.stderr)
        self._live = console.is_terminal or console.is_jupyter
        self._what = what
        self._lock = threading.Lock()
        self._begun = False
        self._step = ""
        self._bar = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(what, total=None)

    def __call__(self, step: str, done: float = 0, total: float | None = None):
        with self._lock:
            self._bar.update(
                self._task,
                description=f"{self._what}: {step}",
                completed=done,
                total=total,
            )
            if step != self._step:
                self._step = step
                if self._begun:
                    self._say()

    def begin(self):
        with self._lock:
            self._begun = True
            if self._live:
                self._bar.start()
            else:
                self._say()

    def end(self):
        if self._begun and self._live:
            self._bar.stop()

    def _say(self):
        """A line per step, where nothing can be drawn over."""
        if not self._live:
            what = ": ".join(filter(None, [self._what, self._step]))
            print(f"{what} ...", file=sys.stderr)


@contextlib.contextmanager
def waiting(what: str, verbose: int = 1) -> Iterator[Callable]:
    """Shows a bar on the terminal, or lines where there is none.

    Only once two seconds have passed.

    Args:
        what: What is done, a few words.
        verbose: 0 shows nothing.

    Yields:
        A callable (step, done=0, total=None), to be called whenever there is
        something to tell.
    """
    if not verbose:
        yield lambda step, done=0, total=None: None
        return
    shown = _Shown(what)
    timer = threading.Timer(_PATIENCE, shown.begin)
    timer.daemon = True
    timer.start()
    try:
        yield shown
    finally:
        timer.cancel()
        timer.join()
        shown.end()
