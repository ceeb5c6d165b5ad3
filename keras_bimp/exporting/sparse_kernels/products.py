"""Sparse matrices times dense ones, in the plain operations of TensorFlow.

The matrix is a constant of the graph in the form that TensorFlow's kernel
reads, so that it is read once when the graph is loaded, not at each call: a
number of 32 bits for the column of each entry, and its value.
"""

import numpy as np

# As many rows of activations the kernel takes at a time; what is left of them
# it takes one number after the other, which is eight times as slow.
_ROWS = 8


class Product:
    """A constant sparse matrix that multiplies dense ones from the left.

    Every graph that calls it shares the one constant.

    Args:
        matrix: Array of shape (outputs, inputs), float32 or float64.
    """

    def __init__(self, matrix: np.ndarray):
        import tensorflow as tf

        self._encoded = _encoded(matrix)
        self._shape, self._type = matrix.shape, matrix.dtype.name
        spec = tf.TensorSpec((matrix.shape[1], None), self._type)
        self._multiply = tf.function(
            self._traced, input_signature=[spec], autograph=False
        ).get_concrete_function()

    def __call__(self, x):
        """Multiplies a tensor of shape (inputs, rows)."""
        return self._multiply(x)

    def _traced(self, x):
        import tensorflow as tf

        with tf.device("/CPU:0"):  # Where constants of this kind can be.
            return tf.raw_ops.SparseMatrixMatMul(a=self._constant(), b=x)

    def _constant(self):
        """The matrix, of which TensorFlow knows the shape.

        Of a constant of that kind it does not. Packed with something else of
        the same shape, and taken out again, it counts as of that shape.
        """
        import tensorflow as tf
        from tensorflow.core.framework import attr_value_pb2

        graph = tf.compat.v1.get_default_graph()
        kind = tf.variant.as_datatype_enum
        (matrix,) = graph._create_op_internal(
            "Const",
            [],
            [tf.variant],
            name="sparse_kernel",
            attrs={
                "value": attr_value_pb2.AttrValue(tensor=self._encoded),
                "dtype": attr_value_pb2.AttrValue(type=kind),
            },
        ).outputs
        of_the_shape = tf.raw_ops.EmptyTensorList(
            element_shape=tf.constant(self._shape, "int32"),
            max_num_elements=0,
            element_dtype=self._type,
        )
        return tf.stack([of_the_shape, matrix])[1]


def padded(x):
    """Fills the last axis of a matrix up to a multiple of `_ROWS`."""
    import tensorflow as tf

    rows = x.shape[-1]
    if rows is not None and rows % _ROWS == 0:
        return x
    more = -(tf.shape(x)[-1] if rows is None else rows) % _ROWS
    return tf.pad(x, [[0, 0], [0, more]])


def _encoded(matrix):
    """A sparse matrix as TensorFlow writes it."""
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    nonzero = matrix != 0
    with tf.init_scope(), tf.device("/CPU:0"):
        sparse = tf.raw_ops.SparseTensorToCSRSparseMatrix(
            indices=np.argwhere(nonzero),
            values=matrix[nonzero],
            dense_shape=np.array(matrix.shape, "int64"),
        )
        written = tf.io.serialize_tensor(sparse).numpy()
    tensor = tensor_pb2.TensorProto.FromString(written)
    content = tensor.tensor_content
    start = next(i for i, byte in enumerate(content) if byte < 0x80) + 1
    # The length of what follows is in front, seven bits a byte.
    entry = tensor_pb2.VariantTensorDataProto.FromString(content[start:])
    # A flag, three bytes that nobody has set, and the type of the values.
    flag, kind = entry.metadata[:1], entry.metadata[4:]
    entry.metadata = flag + bytes(3) + kind
    tensor.ClearField("tensor_content")
    tensor.variant_val.append(entry)
    return tensor
