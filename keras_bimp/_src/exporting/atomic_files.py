"""Files that nobody sees before they are whole."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Iterator

from keras_bimp._src.backup.generations import sync


@contextlib.contextmanager
def written_aside(filepath: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write to; what is there takes its place at the end.

    It is in a folder beside, `<name>.unfinished`, whose name TensorFlow
    Serving passes over, and so is what else is written beside it. If anything
    fails, nothing is left.

    Args:
        filepath: Where a file or folder is to be. Folders above are made.

    Raises:
        OSError: If it cannot be written, with a message that says where.
    """
    unfinished = filepath.with_name(f"{filepath.name}.unfinished")
    try:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)  # Of a killed run.
        unfinished.mkdir()
        yield unfinished / filepath.name
        for path in unfinished.rglob("*"):
            sync(path)
        # Who waits for `filepath` finds all the rest there.
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
            f"`filepath` could not be written, and nothing is there: "
            f"{os.strerror(code)}",
            str(filepath),
        ) from error


def check_writable(filepath: pathlib.Path) -> None:
    """Raises ValueError if a path is taken or no file can be there."""
    if os.path.lexists(filepath):
        raise ValueError(
            f"`filepath` must not exist. Received: filepath={str(filepath)!r}"
        )
    for parent in filepath.absolute().parents:
        if os.path.lexists(parent):
            break
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(
            "`filepath` must be where files can be written, which "
            f"'{parent}' does not allow. Received: filepath={str(filepath)!r}"
        )


def _code(error):
    """Why writing failed, as an error of the system; `None` if it was not."""
    if isinstance(error, OSError):
        return error.errno
    # What TensorFlow, OpenVINO and others raise says it in words only.
    known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    return next((c for c in known if os.strerror(c) in str(error)), None)
