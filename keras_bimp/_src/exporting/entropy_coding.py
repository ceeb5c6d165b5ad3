"""Codes bits in as much space as their probabilities allow.

An asymmetric numeral system is a number that grows with each bit by the factor
1 / probability. Many of them, the lanes, grow side by side in one NumPy array.
What was put in last comes out first, so bits are collected and put in from the
last to the first.

Reference:

- Duda, 2013, [Asymmetric numeral systems](https://arxiv.org/abs/1311.2540)
- Giesen, 2014, [Interleaved entropy coders](https://arxiv.org/abs/1402.3392)
"""

import numpy as np

_BITS = 16  # Of a probability, and of a word of the result.
_ONE = 1 << _BITS
_WORD = np.dtype("<u2")
_STATE = np.dtype("<u4")


class BitWriter:
    """Collects bits, each with its probability of being 1."""

    def __init__(self):
        self._pieces = []

    def __call__(self, probability: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Adds bits, and returns them."""
        bits = bits.astype(bool)
        ones = _in_fixed_point(probability).astype(_WORD)
        self._pieces.append((ones, bits))
        return bits

    def result(self, lanes: int) -> bytes:
        """What a `BitReader` with as many lanes reads the bits from."""
        state = np.full(lanes, _ONE, "uint64")
        words = []
        for ones, bits in reversed(self._pieces):
            for start in reversed(range(0, len(bits), lanes)):
                bit = bits[start : start + lanes]
                one = ones[start : start + lanes].astype("uint64")
                size = np.where(bit, one, _ONE - one)
                x = state[: len(bit)]
                is_full = x >= size << _BITS
                words.append(x[is_full].astype(_WORD))
                whole, rest = np.divmod(np.where(is_full, x >> _BITS, x), size)
                state[: len(bit)] = (
                    (whole << _BITS) + rest + np.where(bit, 0, one)
                )
        words.append(state.astype(_STATE).view(_WORD))
        return np.concatenate(words[::-1]).tobytes()


class BitReader:
    """Tells the bits that were given to a `BitWriter`, in the same order."""

    def __init__(self, data: bytes, lanes: int):
        start = lanes * _STATE.itemsize
        self._state = np.frombuffer(data[:start], _STATE).astype("uint64")
        self._words = np.frombuffer(data[start:], _WORD).astype("uint64")
        self._next = 0

    def __call__(self, probability: np.ndarray, _bits=None) -> np.ndarray:
        """The next bits, whose probabilities are those they were given with."""
        ones = _in_fixed_point(probability)
        found = np.empty(len(ones), bool)
        for start in range(0, len(ones), len(self._state)):
            one = ones[start : start + len(self._state)]
            x = self._state[: len(one)]
            rest = x & (_ONE - 1)
            bit = rest < one
            found[start : start + len(one)] = bit
            size = np.where(bit, one, _ONE - one)
            x = size * (x >> _BITS) + rest - np.where(bit, 0, one)
            empty = x < _ONE
            end = self._next + np.count_nonzero(empty)
            x[empty] = (x[empty] << _BITS) | self._words[self._next : end]
            self._state[: len(one)], self._next = x, end
        return found


def _in_fixed_point(probability):
    """Probabilities as whole numbers, the same on every machine."""
    return np.clip(probability * _ONE, 32, _ONE - 32).astype("uint64")
