"""The smallest file that a `.keras` file can be made from again.

Entries that are not zero are told by one bit each; their bytes are put in
order of significance, for signs and exponents repeat and can be squeezed, and
mantissas cannot. What can be is squeezed with LZMA, from Python's own library.
"""

import hashlib
import io
import json
import lzma
import pathlib
import tempfile
import zipfile
import zlib

import h5py
import keras
import numpy as np

from keras_bimp.exporting.aside import check_writable
from keras_bimp.exporting.aside import written_aside
from keras_bimp.exporting.options import Options

# A file is this, the length of the header in 8 bytes, the header, the streams
# that it lists, and the SHA-256 of all that.
_MAGIC = b"KBPACK1\n"
_LENGTH = 8
_WEIGHTS = "model.weights.h5"
_PRESET = 6 | lzma.PRESET_EXTREME
_SAMPLE = 1 << 16


def load_packed(
    filepath: str | pathlib.Path,
    custom_objects: dict | None = None,
    compile: bool = True,
    safe_mode: bool = True,
) -> keras.Model:
    """Loads a model that was exported with `format="packed"`.

    Its weights are those that were exported, bit for bit.

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
    keras_bimp.export(model, "model.packed", format="packed")
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
    keras_bimp.exporting.unpack("model.packed", "model.keras")
    ```
    """
    header, streams = _read(pathlib.Path(filepath))
    target = pathlib.Path(keras_filepath)
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
            archive.writestr(name, next(streams))
        if header["weights"] is not None:
            archive.writestr(_WEIGHTS, _weights(header["weights"], streams))
    return target


def write(model: keras.Model, path: pathlib.Path, options: Options) -> None:
    """Writes a packed file, on any backend, and reads it again."""
    with tempfile.TemporaryDirectory() as folder:
        original = pathlib.Path(folder, "model.keras")
        model.save(original)
        _pack(original, path)
        again = unpack(path, pathlib.Path(folder, "again.keras"))
        if _contents(again) != _contents(original):
            raise RuntimeError(f"'{path.name}' does not hold what `model` does")


def _pack(original, path):
    streams, listed, weights = [], [], None

    def add(data, squeeze=True):
        packed = _squeezed(data) if squeeze else data
        streams.append(packed)
        listed.append([len(packed), packed is not data])

    with zipfile.ZipFile(original) as archive:
        names = archive.namelist()
        if _WEIGHTS in names:
            weights, parts = _split(archive.read(_WEIGHTS))
        if weights is not None:
            names.remove(_WEIGHTS)
        for name in names:
            add(archive.read(name))
    if weights is not None:
        for part in parts:
            add(part)
    header = {"files": names, "weights": weights, "streams": listed}
    header = lzma.compress(json.dumps(header).encode(), preset=_PRESET)
    length = len(header).to_bytes(_LENGTH, "little")
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in (_MAGIC, length, header, *streams):
            digest.update(part)
            file.write(part)
        file.write(digest.digest())


def _read(path):
    """The header, and an iterator over what the streams hold."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            "`filepath` must be a file that can be read. "
            f"Received: filepath={str(path)!r}: {error.strerror}"
        ) from error
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError(
            "`filepath` must be a file that was exported with "
            f"format='packed'. Received: filepath={str(path)!r}"
        )
    size = hashlib.sha256().digest_size
    if hashlib.sha256(data[:-size]).digest() != data[-size:]:
        raise ValueError(
            "`filepath` must be whole, and this file is damaged or cut off. "
            f"Received: filepath={str(path)!r}"
        )
    view = memoryview(data)[len(_MAGIC) :]
    length = int.from_bytes(view[:_LENGTH], "little")
    view = view[_LENGTH:]
    header = json.loads(lzma.decompress(view[:length]))
    return header, _streams(header["streams"], view[length:])


def _streams(listed, view):
    for length, is_squeezed in listed:
        part, view = view[:length], view[length:]
        yield lzma.decompress(part) if is_squeezed else bytes(part)


def _squeezed(data):
    """The data squeezed, or as they are if that makes them no smaller."""
    sample = data[:_SAMPLE]
    if (
        len(sample) == _SAMPLE
        and len(zlib.compress(sample, 1)) > 0.99 * _SAMPLE
    ):
        return data  # Mantissas: it would take long for nothing.
    packed = lzma.compress(data, check=lzma.CHECK_NONE, preset=_PRESET)
    return packed if len(packed) < len(data) else data


def _split(data):
    """Takes a file of weights apart.

    Returns:
        What JSON can tell of it, and the parts that hold the arrays; `None`
        and nothing if there is more in it than Keras itself writes.
    """
    groups, datasets, arrays = [], [], {}

    def visit(name, node):
        attributes = {key: _plain(node.attrs[key]) for key in node.attrs}
        if isinstance(node, h5py.Group):
            groups.append([name, attributes])
            return
        array = node[()]
        kind = np.asarray(array).dtype
        if kind.kind not in "biuf" or kind.itemsize not in _WORDS:
            raise TypeError(kind)
        datasets.append([name, attributes, node.shape, kind.str])
        arrays.setdefault(kind.str, []).append(np.ravel(array))

    try:
        with h5py.File(io.BytesIO(data)) as file:
            visit("/", file)
            file.visititems(visit)
    except TypeError:
        return None, []
    parts = []
    for of_a_kind in arrays.values():
        parts += _parts(np.concatenate(of_a_kind))
    return {"groups": groups, "datasets": datasets}, parts


def _plain(value):
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, str | int | float):
        raise TypeError(value)
    return value


def _parts(array):
    words = array.view(_WORDS[array.itemsize])
    isnt_zero = words != 0  # But -0.0 has a bit.
    planes = words[isnt_zero].view(np.uint8).reshape(-1, array.itemsize).T
    return [np.packbits(isnt_zero).tobytes(), *(p.tobytes() for p in planes)]


def _weights(weights, streams):
    """Puts a file of weights together."""
    sizes = {}
    for _, _, shape, kind in weights["datasets"]:
        sizes[kind] = sizes.get(kind, 0) + int(np.prod(shape, dtype=int))
    arrays = {kind: _array(kind, n, streams) for kind, n in sizes.items()}
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        for name, attributes in weights["groups"]:
            h5.require_group(name).attrs.update(attributes)
        for name, attributes, shape, kind in weights["datasets"]:
            size = int(np.prod(shape, dtype=int))
            array, arrays[kind] = arrays[kind][:size], arrays[kind][size:]
            dataset = h5.create_dataset(name, data=array.reshape(shape))
            dataset.attrs.update(attributes)
    return file.getvalue()


def _array(kind, size, streams):
    dtype = np.dtype(kind)
    bits = np.frombuffer(next(streams), np.uint8)
    isnt_zero = np.unpackbits(bits, count=size).astype(bool)
    planes = [
        np.frombuffer(next(streams), np.uint8) for _ in range(dtype.itemsize)
    ]
    words = np.zeros(size, _WORDS[dtype.itemsize])
    values = np.ascontiguousarray(np.stack(planes, axis=-1))
    words[isnt_zero] = values.view(words.dtype)[:, 0]
    return words.view(dtype)


def _contents(path):
    """All that is in a `.keras` file, to compare."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            found[name] = archive.read(name)
    if _WEIGHTS in found:
        described, parts = _split(found[_WEIGHTS])
        if described is not None:
            found[_WEIGHTS] = described, parts
    return found


# Bytes -> the unsigned integers of as many.
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
