"""Compresses kernels of 8-bit codes by how likely each bit is.

What came before tells which outputs and inputs of a kernel have many zeros,
which outputs have mostly negative weights, and how large weights are. So
probabilities are learned on the way and take no space.
"""

import numpy as np

from keras_bimp._src.exporting.entropy_coding import BitReader
from keras_bimp._src.exporting.entropy_coding import BitWriter

_BLOCKS = 64  # How often the model of a kernel learns.
_PRIOR = 24  # Entries that the density of a kernel counts for in a channel.
_BITS = 7  # Of a magnitude - 1.
_LOW = 3  # Bits of it that do not depend on the typical magnitude.
_CONTEXTS = 72  # Typical magnitudes, 8 to an octave, from the 8th on.
_ENTRIES_PER_LANE = 1 << 14


def coded(kernels: list[np.ndarray]) -> bytes:
    """Compresses kernels of the type int8."""
    writer, model = BitWriter(), _Model()
    for kernel in kernels:
        model(writer, kernel)
    return writer.result(_lanes(kernels))


def decoded(data: bytes, kernels: list[np.ndarray]) -> list[np.ndarray]:
    """The kernels that `coded` was given.

    Args:
        data: What it returned.
        kernels: Any of the same shapes.
    """
    reader, model = BitReader(data, _lanes(kernels)), _Model()
    return [model(reader, kernel) for kernel in kernels]


def _lanes(kernels):
    size = sum(kernel.size for kernel in kernels)
    return int(np.clip(size // _ENTRIES_PER_LANE, 8, 1024))


class _Model:
    """What is known of codes that were written, or read.

    Sums are of integers, and one operation is done at a time, so that
    probabilities are the same on every machine.
    """

    def __init__(self):
        self._counts = np.ones(_CONTEXTS << (_BITS + 1), "int64")
        self._nonzeros, self._entries = 1, 10
        self._total, self._values = 32, 1

    def __call__(self, code, kernel):
        """Codes a kernel, and returns it.

        Args:
            code: A `BitWriter`, or a `BitReader`, which looks only at shapes.
            kernel: The kernel.
        """
        inputs, outputs = kernel.shape[-2:]
        known = kernel.reshape(-1, outputs)
        found = np.zeros(known.shape, "int8")
        step = max(1, -(-len(known) // _BLOCKS))
        # Nonzeros, negatives, sum of magnitudes.
        of_output = np.zeros((3, outputs))
        of_input = np.zeros((2, inputs))  # Nonzeros, entries.
        for start in range(0, len(known), step):
            block = known[start : start + step].astype(int)
            rows = np.arange(start, start + len(block)) % inputs
            p = self._density(start, of_output[0], *of_input[:, rows])
            isnt_zero = code(p.ravel(), (block != 0).ravel())
            isnt_zero = isnt_zero.reshape(block.shape)
            columns = np.nonzero(isnt_zero)[1]
            values = self._coded_values(
                code, of_output, columns, block[isnt_zero]
            )
            found[start : start + step][isnt_zero] = values
            for sums, added in zip(
                of_output, (None, values < 0, np.abs(values)), strict=True
            ):
                sums += np.bincount(columns, added, outputs)
            np.add.at(of_input[0], rows, isnt_zero.sum(axis=1))
            np.add.at(of_input[1], rows, outputs)
        self._entries += known.size
        self._nonzeros += int(of_output[0].sum())
        self._values += int(of_output[0].sum())
        self._total += int(of_output[2].sum())
        return found.reshape(kernel.shape)

    def _density(self, rows_before, nonzeros, nonzeros_of_row, entries_of_row):
        """Probabilities of nonzeros, which outputs and inputs multiply."""
        total = _PRIOR * (self._nonzeros / self._entries) + nonzeros.sum()
        mean = total / (_PRIOR + rows_before * len(nonzeros))
        of_column = (nonzeros + _PRIOR * mean) / (rows_before + _PRIOR)
        of_row = (nonzeros_of_row + _PRIOR * mean) / (entries_of_row + _PRIOR)
        odds = np.multiply.outer(_odds(of_row) / _odds(mean), _odds(of_column))
        return odds / (1 + odds)

    def _coded_values(self, code, of_output, columns, values):
        nonzeros, negatives, sums = of_output
        p = ((negatives + 2) / (nonzeros + 4))[columns]
        is_negative = code(p, values < 0)
        mean = 4 * (self._total / self._values) + sums.sum()
        mean = mean / (4 + nonzeros.sum())
        typical = (sums + 2 * mean) / (nonzeros + 2)
        mantissas, octaves = np.frexp(typical)
        contexts = 8 * octaves + ((mantissas - 0.5) * 16).astype(int)
        contexts = contexts[columns]
        magnitudes = np.abs(values) - 1
        prefix = np.ones(len(columns), int)
        for bit in reversed(range(_BITS)):
            if bit < _LOW:
                contexts = np.zeros_like(contexts)
            at = ((contexts << _BITS) + prefix) * 2
            ones = self._counts[at + 1]
            p = ones / (self._counts[at] + ones)
            bits = code(p, magnitudes >> bit & 1)
            np.add.at(self._counts, at + bits, 2)
            prefix = 2 * prefix + bits
        magnitudes = prefix - (1 << _BITS) + 1
        return np.where(is_negative, -magnitudes, magnitudes)


def _odds(probability):
    return probability / (1 - probability)
