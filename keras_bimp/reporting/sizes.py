"""How large files a model makes."""

import concurrent.futures
import pathlib
import tempfile
import zlib

import keras

from keras_bimp.backends import backend
from keras_bimp.exporting import export
from keras_bimp.reporting.copies import plain_copy
from keras_bimp.reporting.facts import SizeFacts

_CHUNK = 1 << 22


def file_sizes(
    model: keras.Model, dense: keras.Model | None = None
) -> tuple[list[SizeFacts], list[tuple[str, str]]]:
    """Writes a model, as it would be deployed, and weighs the files.

    Args:
        model: A built model: plain, wrapped or stripped.
        dense: The dense model, or `None`.

    Returns:
        A `SizeFacts` for each format, and pairs of what could not be measured
        and why.
    """
    found, missing = [], []
    ours, why = _sizes(model)
    missing += why
    theirs, why = ({}, []) if dense is None else _sizes(dense)
    missing += [(f"{name} of the dense model", text) for name, text in why]
    for name, (raw, gzipped) in ours.items():
        found.append(
            SizeFacts(name, raw, gzipped, *theirs.get(name, (None, None)))
        )
    return found, missing


def _sizes(model):
    """Format -> bytes as written and gzipped; pairs of what is missing."""
    with (
        tempfile.TemporaryDirectory() as name,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        folder = pathlib.Path(name)
        try:
            copy = plain_copy(model, folder)
        except ValueError as error:
            return {}, [("File sizes", str(error))]
        copy.save(folder / "model.keras")
        jobs = {".keras": pool.submit(_weigh, folder / "model.keras")}
        missing = []
        if backend() == "tensorflow":
            try:
                path = export(copy, folder / "1")
                jobs["SavedModel"] = pool.submit(_weigh, path)
            except ValueError as error:
                missing.append(("Size of the SavedModel", str(error)))
        else:
            missing.append(
                (
                    "Size of the SavedModel",
                    "it is measured on the TensorFlow backend only",
                )
            )
        return {name: job.result() for name, job in jobs.items()}, missing


def _weigh(path):
    """Bytes of a file, or of all in a folder, as they are and gzipped."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    raw, packer, gzipped = 0, zlib.compressobj(level=1, wbits=31), 0
    for file in files:
        if not file.is_file():
            continue
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                raw += len(chunk)
                gzipped += len(packer.compress(chunk))
    return raw, gzipped + len(packer.flush())
