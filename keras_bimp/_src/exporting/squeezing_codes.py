"""Compresses kernels that were rounded to codes of 8 bits."""

from collections.abc import Iterator

import numpy as np

from keras_bimp._src.exporting.code_model import coded
from keras_bimp._src.exporting.code_model import decoded
from keras_bimp._src.exporting.squeezing import CHUNK
from keras_bimp._src.exporting.squeezing import chunks
from keras_bimp._src.exporting.squeezing import in_threads


def squeeze_codes(
    kernels: list[np.ndarray],
) -> Iterator[list[tuple[str, bytes]]]:
    """Compresses kernels, about `CHUNK` entries at a time.

    Yields:
        Lists of one stream each; see `squeeze_arrays`.
    """
    for data in in_threads(coded, _groups(kernels)):
        yield [("codes", data)]


def release_codes(
    shapes: list[tuple[int, ...]], streams: Iterator[tuple[str, bytes]]
) -> Iterator[np.ndarray]:
    """Yields the entries that were given to `squeeze_codes`, in chunks.

    Args:
        shapes: The shapes of the kernels.
        streams: The concatenated lists that `squeeze_codes` yielded.
    """
    blank = (np.broadcast_to(np.int8(0), shape) for shape in shapes)
    jobs = ((next(streams)[1], group) for group in _groups(blank))
    groups = in_threads(lambda job: decoded(*job), jobs)
    yield from chunks(np.ravel(part) for group in groups for part in group)


def _groups(kernels):
    """Yields lists of kernels, or of some of their rows if they are large."""
    group, size = [], 0
    for part in (part for kernel in kernels for part in _parts(kernel)):
        group.append(part)
        size += part.size
        if size >= CHUNK:
            yield group
            group, size = [], 0
    if group:
        yield group


def _parts(kernel):
    if kernel.size <= CHUNK:
        return [kernel]
    rows = kernel.reshape(-1, kernel.shape[-1])
    step = max(1, CHUNK // kernel.shape[-1])
    return [rows[i : i + step] for i in range(0, len(rows), step)]
