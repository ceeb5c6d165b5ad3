"""Sparse-dense matrix products in plain TensorFlow operations.

The sparse matrix is a variable of type variant, in the form that TensorFlow's
kernel reads, so it is not rebuilt at each call. A SavedModel stores it with its
other weights, as a value and a 32-bit column for each entry, and loading the
SavedModel restores it.
"""

import numpy as np

# TensorFlow's kernel takes this many columns of activations at a time. It takes
# the remaining ones one by one, which is eight times as slow.
_COLUMNS = 8


class Product:
    """A sparse matrix that multiplies dense matrices from the left.

    All functions that are traced with it share one variable.

    Args:
        matrix: Array of shape (outputs, inputs), float32 or float64.
        name: The name of the variable.
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
            # TensorFlow needs the shape of the matrix, and does not know it
            # for a variant variable. Pushing it to a list of a known element
            # shape and popping it again sets the shape.
            of_the_shape = tf.raw_ops.EmptyTensorList(
                element_shape=tf.constant(self._shape, "int32"),
                max_num_elements=0,
                element_dtype=self._type,
            )
            matrix = tf.stack([of_the_shape, self._variable.read_value()])[1]
            return tf.raw_ops.SparseMatrixMatMul(a=matrix, b=x)


def padded(x):
    """Pads the columns of a matrix to a multiple of `_COLUMNS`."""
    import tensorflow as tf

    count = x.shape[-1]
    if count is not None and count % _COLUMNS == 0:
        return x
    more = -(tf.shape(x)[-1] if count is None else count) % _COLUMNS
    return tf.pad(x, [[0, 0], [0, more]])


_DEVICE = "/CPU:0"  # The only place for variant variables.
