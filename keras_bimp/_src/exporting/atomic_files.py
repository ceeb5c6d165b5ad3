"""Atomic writes: a file appears only when it is complete."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Iterator

from keras_bimp._src.backup.generations import sync


@contextlib.contextmanager
def written_aside(filepath: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path that is renamed to `filepath` at the end.

    It is in a folder `<name>.unfinished`, which TensorFlow Serving ignores.
    Other files written next to it are moved too. If anything fails, nothing
    is left behind.

    Args:
        filepath: The final path of the file or folder. Parent folders are
            created.

    Raises:
        OSError: If it cannot be written. The message names the path.
    """
    unfinished = filepath.with_name(f"{filepath.name}.unfinished")
    try:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)  # From a killed run.
        unfinished.mkdir()
        yield unfinished / filepath.name
        for path in unfinished.rglob("*"):
            sync(path)
        # `filepath` comes last: whatever waits for it finds the rest there.
        parts = [p for p in unfinished.iterdir() if p.name != filepath.name]
        for part in [*parts, unfinished / filepath.name]:
            os.rename(part, filepath.with_name(part.name))
        unfinished.rmdir()
        sync(filepath.parent)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        code = _code(error)
        if code is None:
            raise
        raise OSError(
            code,
            f"`filepath` could not be written, and nothing is left behind: "
            f"{os.strerror(code)}",
            str(filepath),
        ) from error


def check_writable(filepath: pathlib.Path) -> None:
    """Raises ValueError if a path exists or cannot be written."""
    if os.path.lexists(filepath):
        raise ValueError(
            "`filepath` must not exist: delete it, or choose another, such as "
            f"the next version. Received: filepath={str(filepath)!r}"
        )
    for parent in filepath.absolute().parents:
        if os.path.lexists(parent):
            break
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(
            f"`filepath` must be writable, and '{parent}' is not a writable "
            f"folder. Received: filepath={str(filepath)!r}"
        )


def _code(error):
    """Returns the errno of a failed write, or `None` for other errors."""
    if isinstance(error, OSError):
        return error.errno
    # TensorFlow, OpenVINO and others give the reason only in the message.
    known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    return next((c for c in known if os.strerror(c) in str(error)), None)
