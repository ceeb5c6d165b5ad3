"""How large files a model makes."""

import concurrent.futures
import pathlib
import tempfile
import zlib

import keras

from keras_bimp._src.backends import backend
from keras_bimp._src.exporting import export

_CHUNK = 1 << 22


def file_sizes(copy: keras.Model) -> dict[str, tuple[int, int]]:
    """Writes a model, as it would be deployed, and weighs the files.

    Args:
        copy: What `plain_copy` returned.

    Returns:
        Format -> bytes as written, and after `gzip -1`. The SavedModel is
        there on the TensorFlow backend only.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        folder = pathlib.Path(name)
        copy.save(folder / "model.keras")
        jobs = {".keras": pool.submit(_weigh, folder / "model.keras")}
        if backend() == "tensorflow":
            path = export(copy, folder / "1", verify=False, verbose=0)
            jobs["SavedModel"] = pool.submit(_weigh, path)
        return {name: job.result() for name, job in jobs.items()}


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
