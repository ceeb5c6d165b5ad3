"""A folder of generations: files that are either complete or absent.

Uses only NumPy and the standard library, so that it can be tested, and states
read, without Keras.
"""

import concurrent.futures
import hashlib
import json
import math
import os
import pathlib
import warnings

import numpy as np

_MAGIC = b"keras_bimp state 1\n"
_LENGTH_BYTES = 8
_CHUNK = 1 << 22
_KEPT = 2
_SUFFIX = ".state"
_UNFINISHED = ".unfinished"
_ARRAY = "__array__"
_DTYPES = {
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("float16", "float32", "float64"),
    *("complex64", "complex128"),
}


class UnreadableError(Exception):
    """The file is not a complete generation.

    Example:

    >>> issubclass(keras_bimp.backup.UnreadableError, Exception)
    True
    """


class Generations:
    """Keeps the newest two generations of a state in a folder.

    A state consists of dicts with string keys, lists, strings, numbers, `None`
    and NumPy arrays. Each generation is one file: a line that identifies the
    format, the length of the header, the header (JSON, with the positions,
    types and shapes of the arrays), the raw arrays, and the SHA-256 of all
    that. The file is written under another name, synced to disk and renamed;
    then the folder is synced. So whenever the process dies, the newest
    generation is complete. Nothing is pickled.

    Types that NumPy lacks, such as bfloat16, are read as unsigned integers of
    the same size unless the package that defines them, ml_dtypes, is imported.

    Args:
        folder: Folder of the files.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)

    def prepare(self) -> None:
        """Create the folder, and remove leftovers of a killed process.

        Raises:
            OSError: If the folder cannot be created or written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(f"*{_SUFFIX}{_UNFINISHED}"):
            left.unlink()
        probe = self.folder / f"probe{_SUFFIX}{_UNFINISHED}"
        probe.touch()
        probe.unlink()

    def paths(self) -> list[pathlib.Path]:
        """Return the files of the generations, newest first."""
        found = {
            int(path.stem): path
            for path in self.folder.glob(f"*{_SUFFIX}")
            if path.stem.isdecimal()
        }
        return [found[number] for number in sorted(found, reverse=True)]

    def write(self, state: dict) -> pathlib.Path:
        """Add a generation, and remove all but the newest two.

        Args:
            state: The state to write.

        Returns:
            The path of the file.

        Raises:
            OSError: If it cannot be written, for example because the disk is
                full. Existing generations are unchanged then.
        """
        paths = self.paths()
        number = int(paths[0].stem) + 1 if paths else 0
        path = self.folder / f"{number:08d}{_SUFFIX}"
        unfinished = path.with_name(path.name + _UNFINISHED)
        try:
            _write_file(unfinished, state)
            os.replace(unfinished, path)
            sync(self.folder)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        for old in paths[_KEPT - 1 :]:
            old.unlink(missing_ok=True)
        return path

    def read(self) -> dict | None:
        """Return the newest readable generation; `None` if there is none.

        Warns about unreadable ones.

        Raises:
            UnreadableError: If there are generations, but none is readable.
        """
        paths = self.paths()
        for path in paths:
            try:
                return read_file(path)
            except (UnreadableError, OSError) as error:
                older = path is not paths[-1]
                warnings.warn(
                    f"The state in {path} cannot be read: {error}. "
                    + ("Trying the previous one." if older else ""),
                    stacklevel=2,
                )
        if paths:
            raise UnreadableError(f"{len(paths)} files, none of them readable")
        return None


def read_file(path: str | os.PathLike) -> dict:
    """Read one generation.

    Raises:
        UnreadableError: If the file is truncated, altered, or not a state.
        OSError: If it cannot be opened.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest_size = hashlib.sha256().digest_size
        if size < len(_MAGIC) + _LENGTH_BYTES + digest_size:
            raise UnreadableError(f"it has only {size} bytes")
        if file.read(len(_MAGIC)) != _MAGIC:
            raise UnreadableError("it is not a state of keras_bimp")
        _check_digest(file, size - digest_size)
        file.seek(len(_MAGIC))
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        left = size - file.tell() - digest_size
        if length > left:
            raise UnreadableError(f"its header should have {length} bytes")
        try:
            header = json.loads(file.read(length))
            arrays = _read_arrays(file, header["arrays"], left - length)
            return _decode(header["state"], arrays)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UnreadableError(
                f"its header is invalid: {error!r}"
            ) from error


def _check_digest(file, end):
    digest = hashlib.sha256()
    file.seek(0)
    while (here := file.tell()) < end:
        digest.update(file.read(min(_CHUNK, end - here)))
    if file.read() != digest.digest():
        raise UnreadableError("its SHA-256 does not match")


def _read_arrays(file, described, size):
    sizes = []
    for dtype, shape, _ in described:
        if dtype not in _DTYPES or not all(
            isinstance(n, int) and n >= 0 for n in shape
        ):
            raise ValueError(f"an array of {dtype} {shape}")
        sizes.append(math.prod(shape) * np.dtype(dtype).itemsize)
    if sum(sizes) != size:
        raise ValueError(f"arrays of {sum(sizes)} bytes in {size}")
    arrays = []
    for dtype, shape, own in described:
        array = np.empty(shape, dtype)
        file.readinto(_as_bytes(array))
        arrays.append(array if own == dtype else _in_own_dtype(array, own))
    return arrays


def _in_own_dtype(array, name):
    try:
        dtype = np.dtype(str(name))
    except TypeError:
        return array
    known = dtype.isbuiltin == 2 and dtype.itemsize == array.itemsize
    return array.view(dtype) if known else array


def _write_file(path, state):
    arrays = []
    tree = _encode(state, arrays)
    described = [
        [_stored_dtype(array.dtype).name, list(array.shape), array.dtype.name]
        for array in arrays
    ]
    header = json.dumps(
        {"state": tree, "arrays": described}, separators=(",", ":")
    ).encode()
    digest = hashlib.sha256()
    with (
        open(path, "wb", buffering=0) as file,
        # Computes the hash while the disk writes.
        concurrent.futures.ThreadPoolExecutor(1) as hasher,
    ):
        length = len(header).to_bytes(_LENGTH_BYTES, "little")
        parts = [_MAGIC + length + header, *map(_as_bytes, arrays)]
        for part in parts:
            hashed = hasher.submit(digest.update, part)
            _write(file, part)
            hashed.result()
        _write(file, digest.digest())
        os.fsync(file.fileno())


def _write(file, data):
    data = memoryview(data)
    while data:
        data = data[file.write(data[:_CHUNK]) :]


def sync(path: pathlib.Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stored_dtype(dtype):
    """Return the type with which arrays of a type are stored."""
    if dtype.name in _DTYPES and dtype.isnative:
        return dtype
    if dtype.isbuiltin != 2:  # Not a type of ml_dtypes either.
        raise TypeError(f"An array of {dtype} cannot be stored")
    return np.dtype(f"uint{8 * dtype.itemsize}")


def _as_bytes(array):
    return memoryview(array.reshape(-1).view(np.uint8))


def _encode(node, arrays):
    """Replace the arrays in a state by their positions in `arrays`."""
    if isinstance(node, np.ndarray):
        _stored_dtype(node.dtype)  # Raises an error before anything is written.
        shape = node.shape  # `ascontiguousarray` turns scalars into vectors.
        arrays.append(np.ascontiguousarray(node).reshape(shape))
        return {_ARRAY: len(arrays) - 1}
    if isinstance(node, np.generic):
        return node.item()
    if isinstance(node, dict):
        return {key: _encode(value, arrays) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_encode(value, arrays) for value in node]
    return node


def _decode(node, arrays):
    if isinstance(node, dict):
        if set(node) == {_ARRAY}:
            return arrays[node[_ARRAY]]
        return {key: _decode(value, arrays) for key, value in node.items()}
    if isinstance(node, list):
        return [_decode(value, arrays) for value in node]
    return node
