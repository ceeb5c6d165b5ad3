"""Codes of 8 bits in a packed file: near their entropy, and unchanged."""

import base64
import lzma
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from keras_bimp._src.exporting import squeezing
from keras_bimp._src.exporting import squeezing_codes
from keras_bimp._src.exporting.code_model import coded
from keras_bimp._src.exporting.code_model import decoded
from keras_bimp._src.exporting.entropy_coding import BitReader
from keras_bimp._src.exporting.entropy_coding import BitWriter
from keras_bimp.exporting import unpack

KERNELS = st.lists(
    of_numpy.arrays(
        np.int8, of_numpy.array_shapes(min_dims=2, max_dims=4, max_side=7)
    ),
    max_size=3,
)
# Files of the kernel and vector that `kernel_and_vector` expects: as they were
# before codes had a model, and with it.
WITHOUT_MODEL = """
S0JQQUNLMgpRUCjKf3+B9AAAAAABQEAAAAAukwAAQHp5eX+A/Td6WFoAAATm1rRGAgAh
ARYAAAB0L+Wj4ADhAHpdAD2IiMbUDKr8M94faY97k+DHwk6TKqvc3oChcF5Rulbv//VQ
Vm/wGNj0Ba1rGnIGo0+KjB3B4QS/e/yDOdFlxEpLznNeyrpZZyyHLO3Bjko/l18+mEps
nCjm2vID8m9+v75+xDOanQVcJKZKD3DNyLjacG6/SuO0xwAAAAAASDXmErs93/sAAZYB
4gEAALfrvkixxGf7AgAAAAAEWVq8AAAAAAAAAJel+ixlqBL37O6eaZWpM9YBWKcpKTRu
aEsoZHFjjPpV
"""
WITH_MODEL = """
S0JQQUNLMwogmQ8A5hJ5G1RMCQAAAAEAAAABAAAAAQAAAAEAAAABAP2TCAD0AAAAAAFj
AAEALpQAAEB6eXl/gP03elhaAAAE5ta0RgIAIQEWAAAAdC/lo+AA2wCEXQA9iIjG1Ayq
/DPeH2mPe5Pgx8JOkyqr3N6AoXBeUbpW7//1UFZv8BjY9AWtaxpyBqNPiowdweEEv3v8
gznRZcRKS85zUmkUpDkcj+9XLheohjSoMn7fcIilukPvivq4zo59BBFmmrN0X3q0gy5f
faKR7L7OOXFrzGeoEgkM1velyzbXmIAAkSoJ8GHBdqMAAaAB3AEAAJWAaYqxxGf7AgAA
AAAEWVrEAAAAAAAAAF3679eaGAtouvchCdxHhYrjI7VtmN2QDCHOHnVo8UPX
"""


def entropy(counts):
    """Bytes of symbols that occur so often."""
    counts = np.asarray(counts, float)
    counts = counts[counts > 0]
    return -(counts * np.log2(counts / counts.sum())).sum() / 8


def pruned(seed=0, shape=(3, 3, 64, 96)):
    """Codes as those of a pruned convolution: each output differs."""
    rng = np.random.default_rng(seed)
    density = rng.uniform(0.01, 0.3, shape[-1])
    negative = rng.uniform(0.2, 0.8, shape[-1])
    least = rng.integers(10, 60, shape[-1])
    kept = rng.random(shape) < density
    sizes = np.minimum(least + rng.exponential(least / 4, shape), 127)
    signs = np.where(rng.random(shape) < negative, -1, 1)
    return np.where(kept, signs * sizes, 0).astype("int8")


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.97])
def test_bits_take_their_entropy(p):
    rng = np.random.default_rng(0)
    sizes = [0, 1, 7, 8, 9, 40_000]
    bits = [rng.random(size) < p for size in sizes]
    writer = BitWriter()
    for piece in bits:
        np.testing.assert_array_equal(
            writer(np.full(len(piece), p), piece), piece
        )
    data = writer.result(8)
    ones = sum(map(np.count_nonzero, bits))
    expected = entropy([ones, sum(sizes) - ones])
    assert expected <= len(data) < 1.01 * expected + 4 * 8
    reader = BitReader(data, 8)
    for piece in bits:
        np.testing.assert_array_equal(reader(np.full(len(piece), p)), piece)


def test_bits_of_different_probabilities():
    rng = np.random.default_rng(0)
    p = rng.random(50_000) ** 4
    p[:2] = 0, 1
    bits = rng.random(50_000) < p
    bits[:2] = True, False  # What is said to be impossible can be told.
    writer = BitWriter()
    writer(p, bits)
    data = writer.result(16)
    p, b = p[2:], bits[2:]
    expected = -np.log2(np.where(b, p, 1 - p)).sum() / 8
    assert len(data) < 1.01 * expected + 4 * 16
    np.testing.assert_array_equal(BitReader(data, 16)(np.r_[0, 1, p]), bits)


@settings(deadline=None, max_examples=25)
@given(KERNELS)
def test_kernels_come_back(kernels):
    blank = [np.zeros_like(kernel) for kernel in kernels]
    found = decoded(coded(kernels), blank)
    for one, other in zip(kernels, found, strict=True):
        assert other.dtype == np.int8
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "kernel",
    [
        np.full((5, 3), -128, "int8"),
        np.full((300, 2), 127, "int8"),
        np.zeros((4000, 1), "int8"),
        np.arange(-128, 128, dtype="int8").reshape(1, 256),
        np.arange(-128, 128, dtype="int8").reshape(256, 1),
    ],
)
def test_extreme_kernels_come_back(kernel):
    (found,) = decoded(coded([kernel]), [kernel * 0])
    np.testing.assert_array_equal(found, kernel)


def test_the_size_is_near_the_entropy_of_each_output():
    kernels = [pruned(seed) for seed in range(3)]
    expected = 0
    for kernel in kernels:
        rows = kernel.reshape(-1, kernel.shape[-1])
        for column in rows.T:
            values = column[column != 0]
            expected += entropy([len(values), len(column) - len(values)])
            expected += entropy([(values < 0).sum(), (values > 0).sum()])
            expected += entropy(np.bincount(np.abs(values.astype(int))))
    data = coded(kernels)
    # The entropies do not count what it takes to learn the frequencies, which
    # are known from a few values of each output.
    assert len(data) < 1.12 * expected
    flat = np.concatenate([kernel.ravel() for kernel in kernels])
    assert len(data) < 0.9 * len(lzma.compress(flat.tobytes(), preset=9))
    nonzeros = flat[flat != 0].tobytes()
    apart = [np.packbits(flat != 0).tobytes(), nonzeros]
    before = sum(len(packed) for _, packed in map(squeezing.squeezed, apart))
    assert len(data) < 0.92 * before


def test_inputs_without_weights_take_less():
    kernel = pruned()
    kernel[:, :, 16:] = 0
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(kernel, axis=2)  # Each output on its own.
    assert len(coded([kernel])) < 0.95 * len(coded([shuffled]))


def test_large_kernels_and_many_small_ones(monkeypatch):
    monkeypatch.setattr(squeezing_codes, "CHUNK", 1000)
    monkeypatch.setattr(squeezing, "CHUNK", 1000)
    shapes = [(3, 3, 5, 20), (2, 2000), (2500, 1), *[(10, 30)] * 8, (1, 1)]
    kernels = [pruned(i, shape) for i, shape in enumerate(shapes)]
    lists = list(squeezing_codes.squeeze_codes(kernels))
    assert len(lists) == 7
    streams = (stream for streams in lists for stream in streams)
    found = np.concatenate(
        [*squeezing_codes.release_codes([[*s] for s in shapes], streams)]
    )
    expected = np.concatenate([kernel.ravel() for kernel in kernels])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("text", "scales"),
    [
        (WITHOUT_MODEL, [1209 / 256, 1613 / 512, 2]),  # Of 11 bits.
        (WITH_MODEL, [151 / 32, 202 / 64, 2]),  # Of 8 bits.
    ],
)
def test_a_file_that_was_written_earlier_is_read(text, scales, tmp_path):
    """Its kernel is [[0, 127, 0], [-254, 0, 0], [0, 400, 0], [600, 0, -254]]
    / 128, and the scales are 600, 400 and 254 by 127, rounded, by 128."""
    (tmp_path / "a.packed").write_bytes(base64.b64decode(text))
    unpack(tmp_path / "a.packed", tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        kernel, vector = file["kernel"][()], file["vector"][()]
    codes = [[0, 40, 0], [-54, 0, 0], [0, 127, 0], [127, 0, -127]]
    np.testing.assert_array_equal(kernel * 128, np.multiply(codes, scales))
    np.testing.assert_array_equal(vector, [1, 0, -2.5])
