"""The smallest file that a `.keras` file can be made from again."""

import contextlib
import hashlib
import json
import lzma
import math
import pathlib
import tempfile
import zipfile
from collections.abc import Callable

import h5py
import keras
import numpy as np

from keras_bimp._src.exporting.atomic_files import check_writable
from keras_bimp._src.exporting.atomic_files import written_aside
from keras_bimp._src.exporting.options import Options
from keras_bimp._src.exporting.remedies import kept_by_keras
from keras_bimp._src.exporting.rounding import exact_contents
from keras_bimp._src.exporting.rounding import restored
from keras_bimp._src.exporting.rounding import rounded
from keras_bimp._src.exporting.squeezing import CHUNK
from keras_bimp._src.exporting.squeezing import WORDS
from keras_bimp._src.exporting.squeezing import chunks
from keras_bimp._src.exporting.squeezing import release_arrays
from keras_bimp._src.exporting.squeezing import released
from keras_bimp._src.exporting.squeezing import squeeze_arrays
from keras_bimp._src.exporting.squeezing import squeezed
from keras_bimp._src.exporting.squeezing_codes import release_codes
from keras_bimp._src.exporting.squeezing_codes import squeeze_codes

# A file is this, the streams one after the other, the header, which lists them,
# the length of the header in 8 bytes, and the SHA-256 of all that.
_MAGIC = b"KBPACK3\n"
_OLD_MAGIC = b"KBPACK2\n"  # Their codes are arrays of int8 as any other.
_LENGTH = 8
_DIGEST = hashlib.sha256().digest_size
_WEIGHTS = "model.weights.h5"
_CODES = "codes"  # Stands for the type of what `rounded` made codes of.
_PRESET = 6 | lzma.PRESET_EXTREME
_BLOCK = 1 << 24  # Bytes that are read at a time.


def load_packed(
    filepath: str | pathlib.Path,
    custom_objects: dict | None = None,
    compile: bool = True,
    safe_mode: bool = True,
) -> keras.Model:
    """Loads a model that was exported with `format="packed"`.

    Its weights are those that were exported, bit for bit, or rounded if they
    were exported with `quantize`.

    Args:
        filepath: The file.
        custom_objects: Name -> class or function, of those that are not
            registered; see `keras.saving.load_model`.
        compile: Whether to compile the model, if it was.
        safe_mode: Whether to refuse functions that the file brings along, such
            as those of `Lambda` layers.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If the file is none of these, damaged, or cut off.

    Example:

    ```python
    pruned = keras_bimp.strip(model)
    keras_bimp.export(pruned, "model.packed", format="packed")
    model = keras_bimp.exporting.load_packed("model.packed")
    keras_bimp.export(model, "saved_model/1")
    ```
    """
    with tempfile.TemporaryDirectory() as folder:
        path = unpack(filepath, pathlib.Path(folder, "model.keras"))
        return keras.saving.load_model(
            path,
            custom_objects=custom_objects,
            compile=compile,
            safe_mode=safe_mode,
        )


def unpack(
    filepath: str | pathlib.Path, keras_filepath: str | pathlib.Path
) -> pathlib.Path:
    """Makes a `.keras` file of one exported with `format="packed"`.

    No class of the model needs to be known, and none of its code is run.

    Args:
        filepath: The packed file.
        keras_filepath: Where to write. It must end in `.keras`.

    Returns:
        The path that was written.

    Raises:
        ValueError: If `filepath` is no packed file, damaged, or cut off; if
            `keras_filepath` exists or cannot be written.

    Example:

    ```python
    pruned = keras_bimp.strip(model)
    keras_bimp.export(pruned, "model.packed", format="packed")
    keras_bimp.exporting.unpack("model.packed", "model.keras")
    ```
    """
    filepath, target = pathlib.Path(filepath), pathlib.Path(keras_filepath)
    with _opened(filepath) as (header, streams):
        if target.suffix != ".keras":
            raise ValueError(
                "`keras_filepath` must end in '.keras'. "
                f"Received: keras_filepath={str(keras_filepath)!r}"
            )
        check_writable(target)
        with (
            written_aside(target) as path,
            zipfile.ZipFile(path, "w") as archive,
        ):
            for name in header["files"]:
                archive.writestr(name, released(*next(streams)))
            if header["weights"] is not None:
                weights = path.with_name(_WEIGHTS)
                _write_weights(weights, header["weights"], streams)
                archive.write(weights, _WEIGHTS)
                weights.unlink()
    return target


def write(model: keras.Model, path: pathlib.Path, options: Options) -> None:
    """Writes a packed file, on any backend, and reads it again."""
    tell = options.tell
    with tempfile.TemporaryDirectory() as folder:
        original = pathlib.Path(folder, "model.keras")
        tell("saving the model")
        with kept_by_keras(model):
            model.save(original)
        exact = exact_contents(model) if options.quantize else None
        pack(original, path, tell, exact)


def pack(
    original: pathlib.Path,
    path: pathlib.Path,
    tell: Callable,
    exact: set[bytes] | None = None,
) -> None:
    """Makes a packed file of a `.keras` file, and reads it again.

    Args:
        original: The `.keras` file.
        path: What to write.
        tell: Callable (step, done, total); see `waiting`.
        exact: Contents of weights that are not rounded while others are;
            `None` rounds none.

    Raises:
        RuntimeError: If what is read is something else.
        ValueError: If weights cannot be rounded, for Keras did not write them.
    """
    with _taken_apart(original, exact) as (files, weights, arrays):
        _write_packed(path, files, weights, arrays, tell)
        if not _holds(path, files, arrays, tell):
            raise RuntimeError(f"'{path.name}' does not hold what `model` does")


@contextlib.contextmanager
def _taken_apart(original, exact):
    """What a `.keras` file holds.

    Yields:
        Name -> content of its files; what JSON can tell of its weights, and
        their arrays by type. `None` and nothing if there is more in them
        than Keras itself writes: then they are one of the files.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(original) as archive,
    ):
        names = archive.namelist()
        weights, arrays = None, {}
        if _WEIGHTS in names:
            weights, arrays = _split(archive.extract(_WEIGHTS, folder), exact)
        if exact is not None and weights is None:
            raise ValueError(
                "`quantize` must be None for a model whose file holds weights "
                f"that are no numbers. Received: {original.name} with such"
            )
        if weights is not None:
            names.remove(_WEIGHTS)
        yield {n: archive.read(n) for n in names}, weights, arrays


def _write_packed(path, files, weights, arrays, tell):
    total = sum(a.nbytes for kind in arrays.values() for a in kind)
    listed, digest, done = [], hashlib.sha256(), 0
    with open(path, "wb") as file:

        def put(data):
            digest.update(data)
            file.write(data)

        def put_streams(streams):
            for how, packed in streams:
                listed.append([len(packed), how])
                put(packed)

        put(_MAGIC)
        put_streams(map(squeezed, files.values()))
        for kind, of_a_kind in arrays.items():
            for streams in _squeeze(kind, of_a_kind):
                put_streams(streams)
                done += CHUNK * of_a_kind[0].itemsize
                tell("squeezing the weights", min(done, total), total)
        header = {"files": [*files], "weights": weights, "streams": listed}
        header = lzma.compress(json.dumps(header).encode(), preset=_PRESET)
        put(header)
        put(len(header).to_bytes(_LENGTH, "little"))
        file.write(digest.digest())


def _holds(path, files, arrays, tell):
    """Whether what is in a packed file is what it was made of."""
    total = sum(a.nbytes for kind in arrays.values() for a in kind)
    done = 0
    with _opened(path) as (_header, streams):
        for content in files.values():
            if released(*next(streams)) != content:
                return False
        for kind, of_a_kind in arrays.items():
            shapes = [array.shape for array in of_a_kind]
            expected = chunks(map(np.ravel, of_a_kind))
            for found in _release(kind, shapes, streams):
                words = WORDS[found.itemsize]
                if not np.array_equal(
                    found.view(words), next(expected).view(words)
                ):
                    return False
                done += found.nbytes
                tell("reading it again", done, total)
    return True


@contextlib.contextmanager
def _opened(path):
    """Yields the header, and an iterator over the streams."""
    with _open(path) as file:
        if file.read(len(_MAGIC)) not in (_MAGIC, _OLD_MAGIC):
            raise ValueError(
                "`filepath` must be a file that was exported with "
                f"format='packed'. Received: filepath={str(path)!r}"
            )
        if not _is_whole(file):
            raise ValueError(
                "`filepath` must be whole, and this file is damaged or cut "
                f"off. Received: filepath={str(path)!r}"
            )
        file.seek(-_DIGEST - _LENGTH, 2)
        end = file.tell()
        length = int.from_bytes(file.read(_LENGTH), "little")
        file.seek(end - length)
        header = json.loads(lzma.decompress(file.read(length)))
        file.seek(len(_MAGIC))
        yield (
            header,
            ((how, file.read(size)) for size, how in header["streams"]),
        )


def _open(path):
    try:
        return open(path, "rb")
    except OSError as error:
        raise ValueError(
            "`filepath` must be a file that can be read. "
            f"Received: filepath={str(path)!r}: {error.strerror}"
        ) from error


def _is_whole(file):
    """Whether the digest at the end is that of what is before it."""
    left = file.seek(0, 2) - _DIGEST
    if left < len(_MAGIC) + _LENGTH:
        return False
    digest = hashlib.sha256()
    file.seek(0)
    while left:
        block = file.read(min(left, _BLOCK))
        digest.update(block)
        left -= len(block)
    return file.read() == digest.digest()


def _split(path, exact):
    """Takes a file of weights apart; see `_taken_apart`."""
    groups, datasets, arrays = [], [], {}

    def visit(name, node):
        attributes = {key: _plain(node.attrs[key]) for key in node.attrs}
        if isinstance(node, h5py.Group):
            groups.append([name, attributes])
            return
        kind = node.dtype
        if kind.kind not in "biuf" or kind.itemsize not in WORDS:
            raise TypeError(kind)
        value = node[()]
        parts = (value,)
        if exact is not None:
            parts = rounded(name, value, exact)
        kinds = [part.dtype.str for part in parts]
        if len(parts) > 1:
            kinds[0] = _CODES
        datasets.append([name, attributes, node.shape, *kinds])
        for kind, part in zip(kinds, parts, strict=True):
            arrays.setdefault(kind, []).append(part)

    try:
        with h5py.File(path) as file:
            visit("/", file)
            file.visititems(visit)
    except TypeError:
        return None, {}
    return {"groups": groups, "datasets": datasets}, arrays


def _plain(value):
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, str | int | float):
        raise TypeError(value)
    return value


def _write_weights(path, weights, streams):
    """Puts a file of weights together."""
    with h5py.File(path, "w") as h5:
        for name, attributes in weights["groups"]:
            h5.require_group(name).attrs.update(attributes)
        of_a_kind = {}
        for name, attributes, shape, *kinds in weights["datasets"]:
            # Scales have the type of what they make of codes.
            dataset = h5.create_dataset(name, shape, kinds[-1])
            dataset.attrs.update(attributes)
            for kind, of_part in zip(kinds, (shape, shape[-1:]), strict=False):
                wanted = of_a_kind.setdefault(kind, [])
                wanted.append((dataset, of_part, len(kinds) > 1))
        halves = {}
        for kind, wanted in of_a_kind.items():
            entries = _entries(kind, [shape for _, shape, _ in wanted], streams)
            for (dataset, _, is_half), whole in zip(
                wanted, entries, strict=True
            ):
                if is_half:
                    other = halves.pop(dataset.name, None)
                    if other is None:
                        halves[dataset.name] = whole
                        continue
                    whole = restored(dataset.shape, whole, other)
                if dataset.size:
                    dataset[...] = whole.reshape(dataset.shape)


def _entries(kind, shapes, streams):
    """Yields the entries of arrays that are squeezed one after the other."""
    entries = _release(kind, shapes, streams)
    left = np.empty(0, np.int8 if kind == _CODES else kind)
    for missing in map(math.prod, shapes):
        parts = [left[:0]]
        while missing:
            if not len(left):
                left = next(entries)
            parts.append(left[:missing])
            left = left[missing:]
            missing -= len(parts[-1])
        yield np.concatenate(parts)


def _squeeze(kind, arrays):
    if kind == _CODES:
        return squeeze_codes(arrays)
    return squeeze_arrays(map(np.ravel, arrays))


def _release(kind, shapes, streams):
    """Yields entries of arrays, in chunks."""
    if kind == _CODES:
        return release_codes(shapes, streams)
    return release_arrays(kind, sum(map(math.prod, shapes)), streams)
