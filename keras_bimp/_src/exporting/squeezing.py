"""Compresses sparse arrays: a bitmap of the nonzeros, and planes of bytes.

The bytes of nonzero entries are grouped by significance, because exponents
repeat and can be compressed, and mantissas cannot. Each stream is compressed
with the zlib strategy that does best on a sample. For a bitmap of random zeros,
Huffman coding alone is as good as LZMA and a hundred times as fast. Small
streams use LZMA if that is better.
"""

import concurrent.futures
import lzma
import os
import zlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

import numpy as np

# Entries that are compressed together.
CHUNK = 1 << 22
_SMALL = 1 << 18  # Bytes that LZMA is tried on.
_PRESET = 6 | lzma.PRESET_EXTREME
_SAMPLES, _SAMPLE = 4, 1 << 14
# Level and strategy of zlib, and the size, relative to the best before it, that
# a strategy must reach to be chosen: the last is slow.
_STRATEGIES = (
    (1, zlib.Z_HUFFMAN_ONLY, 0.99),
    (1, zlib.Z_RLE, 0.99),
    (4, zlib.Z_DEFAULT_STRATEGY, 0.9),
)

# Bytes -> the unsigned integer type of that size.
WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def squeezed(data: bytes) -> tuple[str, bytes]:
    """Returns how the data were compressed, and the result.

    The data are returned unchanged, as "raw", if nothing makes them smaller.
    """
    level, strategy = _best_strategy(data)
    how, packed = "raw", data
    if strategy is not None:
        how, packed = "zlib", _deflate(data, level, strategy)
    if len(data) <= _SMALL:
        other = lzma.compress(data, check=lzma.CHECK_NONE, preset=_PRESET)
        if len(other) < len(packed):
            how, packed = "lzma", other
    return (how, packed) if len(packed) < len(data) else ("raw", data)


def released(how: str, packed: bytes) -> bytes:
    """Decompresses what `squeezed` returned."""
    return _RELEASE[how](packed)


def squeeze_arrays(
    arrays: Iterable[np.ndarray],
) -> Iterator[list[tuple[str, bytes]]]:
    """Compresses flat arrays of one type, one after another.

    Yields:
        For each chunk, a list of results of `squeezed`.
    """
    yield from in_threads(_squeeze_chunk, chunks(arrays))


def release_arrays(
    kind: str, size: int, streams: Iterator[tuple[str, bytes]]
) -> Iterator[np.ndarray]:
    """Yields the entries that were given to `squeeze_arrays`, in chunks.

    Args:
        kind: The NumPy name of the type.
        size: Number of entries.
        streams: The concatenated lists that `squeeze_arrays` yielded.
    """
    dtype = np.dtype(kind)

    def jobs():
        for start in range(0, size, CHUNK):
            parts = [next(streams) for _ in range(1 + dtype.itemsize)]
            yield dtype, min(CHUNK, size - start), parts

    yield from in_threads(_release_chunk, jobs())


def in_threads(function: Callable, jobs: Iterable) -> Iterator:
    """Maps a function in order, with a few jobs in memory at a time."""
    workers, waiting = min(os.cpu_count() or 1, 8), []
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) > workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def chunks(arrays: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the entries of flat arrays, `CHUNK` at a time."""
    gathered, missing = [], CHUNK
    for array in arrays:
        while len(array):
            gathered.append(array[:missing])
            array = array[missing:]
            missing -= len(gathered[-1])
            if not missing:
                yield np.concatenate(gathered)
                gathered, missing = [], CHUNK
    if gathered:
        yield np.concatenate(gathered)


def _squeeze_chunk(array):
    words = array.view(WORDS[array.itemsize])
    isnt_zero = words != 0  # But -0.0 has a bit.
    values = words if isnt_zero.all() else words[isnt_zero]
    if array.dtype.kind == "f":
        # Moves the sign to the end, so that the exponent is in one byte.
        top = values.dtype.type(8 * values.itemsize - 1)
        values = (values << values.dtype.type(1)) | (values >> top)
    planes = values.view(np.uint8).reshape(-1, array.itemsize).T
    parts = [np.packbits(isnt_zero), *planes]
    return [squeezed(part.tobytes()) for part in parts]


def _release_chunk(job):
    dtype, size, parts = job
    bits, *planes = (
        np.frombuffer(released(how, packed), np.uint8) for how, packed in parts
    )
    isnt_zero = np.unpackbits(bits, count=size).astype(bool)
    values = np.empty((len(planes[0]), dtype.itemsize), np.uint8)
    for i, plane in enumerate(planes):
        values[:, i] = plane
    values = values.view(WORDS[dtype.itemsize])[:, 0]
    if dtype.kind == "f":
        top = values.dtype.type(8 * values.itemsize - 1)
        values = (values >> values.dtype.type(1)) | (values << top)
    if len(values) == size:
        return values.view(dtype)
    words = np.zeros(size, values.dtype)
    words[isnt_zero] = values
    return words.view(dtype)


def _best_strategy(data):
    """Returns the best zlib level and strategy; `None`s if none helps."""
    samples = [data]
    if len(data) > _SAMPLES * _SAMPLE:
        step = (len(data) - _SAMPLE) // (_SAMPLES - 1)
        samples = [data[i * step : i * step + _SAMPLE] for i in range(_SAMPLES)]
    best, chosen = sum(map(len, samples)), (None, None)
    for level, strategy, worth in _STRATEGIES:
        size = sum(len(_deflate(x, level, strategy)) for x in samples)
        if size < worth * best:
            best, chosen = size, (level, strategy)
    return chosen


def _deflate(data, level, strategy):
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return packer.compress(data) + packer.flush()


_RELEASE = {
    "raw": bytes,
    "zlib": lambda packed: zlib.decompress(packed, -15),
    "lzma": lzma.decompress,
}
