"""Atomic reading and writing of array files."""

import os
import pathlib
import zipfile

import numpy as np

_UNREADABLE = (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile)


def write_arrays(path: str | os.PathLike, arrays: dict) -> None:
    """Write named arrays, in order; create the folder if needed."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Replaced atomically: a killed run leaves either the old file or the new.
    unfinished = path.with_name(f"{path.name}.unfinished")
    with open(unfinished, "wb") as file:
        np.savez(file, **arrays)
    os.replace(unfinished, path)


def read_arrays(path: str | os.PathLike, argument: str) -> dict:
    """Read a file of `write_arrays`.

    Raises:
        ValueError: If the file is not one of those. The message names
            `argument`.
    """
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            return dict(arrays)
    except _UNREADABLE as error:
        raise ValueError(
            f"`{argument}` must be a file that was written for it. "
            f"Received: {argument}={os.fspath(path)}, which is not"
        ) from error
