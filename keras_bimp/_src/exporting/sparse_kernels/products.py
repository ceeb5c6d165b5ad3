"""Sparse matrices times dense ones, in the plain operations of TensorFlow.

The matrix is a variable in the form that TensorFlow's kernel reads, of type
variant. So it is made once, not at each call: a SavedModel holds it among its
other weights, as a value and a column of 32 bits for each entry, and whatever
loads a SavedModel restores it.
"""

import numpy as np

# As many columns of activations the kernel takes at a time; what is left of
# them it takes one by one, which is eight times as slow.
_COLUMNS = 8


class Product:
    """A sparse matrix that multiplies dense ones from the left.

    All functions that are traced with it share the one variable.

    Args:
        matrix: Array of shape (outputs, inputs), float32 or float64.
        name: Of the variable.
    """

    def __init__(self, matrix: np.ndarray, name: str = "sparse_kernel"):
        import tensorflow as tf

        self._shape, self._type = matrix.shape, matrix.dtype.name
        nonzero = matrix != 0
        with tf.device(_DEVICE):
            sparse = tf.raw_ops.SparseTensorToCSRSparseMatrix(
                indices=np.argwhere(nonzero),
                values=matrix[nonzero],
                dense_shape=np.array(matrix.shape, "int64"),
            )
            self._variable = tf.Variable(sparse, trainable=False, name=name)

    def __call__(self, x):
        """Multiplies a tensor of shape (inputs, columns)."""
        import tensorflow as tf

        with tf.device(_DEVICE):
            # Of a variable of that type TensorFlow does not know the shape,
            # which it asks for. What is stacked upon something of a known
            # shape, and taken off again, is of that shape.
            of_the_shape = tf.raw_ops.EmptyTensorList(
                element_shape=tf.constant(self._shape, "int32"),
                max_num_elements=0,
                element_dtype=self._type,
            )
            matrix = tf.stack([of_the_shape, self._variable.read_value()])[1]
            return tf.raw_ops.SparseMatrixMatMul(a=matrix, b=x)


def padded(x):
    """Fills the columns of a matrix up to a multiple of `_COLUMNS`."""
    import tensorflow as tf

    count = x.shape[-1]
    if count is not None and count % _COLUMNS == 0:
        return x
    more = -(tf.shape(x)[-1] if count is None else count) % _COLUMNS
    return tf.pad(x, [[0, 0], [0, more]])


_DEVICE = "/CPU:0"  # Variables of that type can be nowhere else.
