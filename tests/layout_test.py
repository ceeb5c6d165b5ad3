import numpy as np
import pytest
from layer_types import LAYERS
from layer_types import layer_model

from keras_bimp._src.kernel_layout import Layout
from keras_bimp._src.masking import find_prunable


@pytest.mark.parametrize(
    ("layout", "shape", "sizes"),
    [
        (Layout((0,), (1,)), (3, 4), (1, 3, 4)),
        (Layout((2,), (3,)), (2, 3, 4, 5), (6, 4, 5)),
        (Layout((3,), (2,)), (2, 3, 4, 5), (6, 5, 4)),
        (Layout((), (2, 3)), (2, 3, 4, 5), (6, 1, 20)),
        (Layout((1, 2), (0,)), (3, 4, 5), (1, 20, 3)),
        (Layout((0,), (2,)), (3, 4, 5), (4, 3, 5)),
    ],
)
def test_matrices_and_back(layout, shape, sizes):
    array = np.arange(np.prod(shape)).reshape(shape)
    matrices = layout.matrices(array)
    assert matrices.shape == sizes
    np.testing.assert_array_equal(layout.from_matrices(matrices, shape), array)
    assert layout.output_units(shape) == sizes[2]
    # An output's column has all the weights that feed it.
    first = [slice(None)] * len(shape)
    for axis in layout.outputs:
        first[axis] = 0
    assert set(matrices[:, :, 0].flat) == set(array[tuple(first)].flat)


def test_layouts_of_layers():
    def layouts(name):
        make, shape, *_ = LAYERS[name]
        kernels = find_prunable(layer_model(make(), shape)).kernels
        return [kernel.layout for kernel in kernels]

    assert layouts("Dense") == [Layout((0,), (1,))]
    assert layouts("Conv2D") == [Layout((2,), (3,), True)]
    assert layouts("Conv3DTranspose") == [Layout((4,), (3,), True)]
    assert layouts("DepthwiseConv1D") == [Layout((), (1, 2), True)]
    assert layouts("SeparableConv2D") == [
        Layout((), (2, 3), True),
        Layout((2,), (3,), True),
    ]
    assert layouts("EinsumDense") == [Layout((0,), (1, 2))]
    # Query, key and value: to heads and their size; and back.
    assert layouts("MultiHeadAttention") == [
        *[Layout((0,), (1, 2))] * 3,
        Layout((0, 1), (2,)),
    ]
    assert layouts("GRU") == [Layout((0,), (1,))] * 2
