"""Files of arrays that are either whole or not there."""

import os
import pathlib
import zipfile

import numpy as np

_UNREADABLE = (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile)


def write_arrays(path: str | os.PathLike, arrays: dict) -> None:
    """Writes named arrays, in order; makes the folder if there is none."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Replaced at once: whoever kills the run leaves the old file or the new.
    unfinished = path.with_name(f"{path.name}.unfinished")
    with open(unfinished, "wb") as file:
        np.savez(file, **arrays)
    os.replace(unfinished, path)


def read_arrays(path: str | os.PathLike, argument: str) -> dict:
    """Reads what `write_arrays` wrote.

    Raises:
        ValueError: If the file is another one. `argument` is what the message
            calls it.
    """
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            return dict(arrays)
    except _UNREADABLE as error:
        raise ValueError(
            f"`{argument}` must be a file that was written for it. "
            f"Received: {argument}={os.fspath(path)}, which is not"
        ) from error
