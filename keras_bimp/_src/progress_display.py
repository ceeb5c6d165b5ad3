"""Show progress during long operations."""

import contextlib
import sys
import threading
from collections.abc import Callable
from collections.abc import Iterator

from rich import progress
from rich.console import Console

# Seconds before progress is shown.
_PATIENCE = 2.0


class _Shown:
    """The callable of `waiting`: reports the step and its progress."""

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
        """Print a line per step, if the output is not a terminal."""
        if not self._live:
            what = ": ".join(filter(None, [self._what, self._step]))
            print(f"{what} ...", file=sys.stderr)


@contextlib.contextmanager
def waiting(what: str, verbose: int = 1) -> Iterator[Callable]:
    """Show a progress bar on a terminal, or lines elsewhere.

    Starts after two seconds.

    Args:
        what: The operation, in a few words.
        verbose: 0 shows nothing.

    Yields:
        A callable (step, done=0, total=None) that reports progress.
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
