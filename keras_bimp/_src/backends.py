"""Differences between the Keras backends, and where variables live."""

import concurrent.futures
import contextlib
from collections.abc import Iterable
from collections.abc import Iterator

import keras
import ml_dtypes
import numpy as np
from keras import ops

from keras_bimp._src.keras_internals.trainer import strategy_of


def backend() -> str:
    """Return the Keras backend: "tensorflow", "jax" or "torch"."""
    return keras.backend.backend()


def eager_on_torch(function):
    """Exclude a function from `torch.compile`.

    It cannot trace what Keras does in a `StatelessScope`.
    """
    if backend() != "torch":
        return function
    import torch

    return torch.compiler.disable(function)


def as_array(variable: keras.Variable, copy: bool = True) -> np.ndarray:
    """Return the complete value of a variable.

    Args:
        variable: The variable, which may be spread over devices or processes.
        copy: Whether the array must not share memory with the variable.
    """
    if is_spread(variable):
        from jax.experimental import multihost_utils

        return np.array(
            multihost_utils.process_allgather(variable.value, tiled=True)
        )
    value = variable.value
    if hasattr(value, "read_value"):  # TensorFlow, with several replicas.
        value = value.read_value()
    if not copy and backend() == "tensorflow":
        # Keras would copy it. TensorFlow does not write into memory that it
        # shares with an array.
        return np.asarray(value)
    value = ops.convert_to_numpy(value)
    return np.array(value) if copy else value


def numpy_dtype(variable: keras.Variable) -> np.dtype:
    """Return the NumPy type of a variable's arrays."""
    name = keras.backend.standardize_dtype(variable.dtype)
    return np.dtype(getattr(ml_dtypes, name, name))


def in_type_of(variable: keras.Variable, array: np.ndarray) -> np.ndarray:
    """Convert an array from a file to the type of a variable.

    NumPy's files do not support bfloat16, which is read as bytes.
    """
    return (
        array.view(numpy_dtype(variable)) if array.dtype.kind == "V" else array
    )


@contextlib.contextmanager
def put_back(variables: Iterable[keras.Variable]) -> Iterator[None]:
    """Restore the current values of variables on exit."""
    variables = list(
        {id(variable): variable for variable in variables}.values()
    )
    before = [as_array(variable) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def is_spread(variable: keras.Variable) -> bool:
    """Return whether no single process holds the whole variable."""
    value = variable.value
    return backend() == "jax" and not (
        value.is_fully_addressable or value.is_fully_replicated
    )


def in_step(variable: keras.Variable):
    """Return a variable's value for use inside a compiled step.

    Unless JAX passes the variable to the step, it compiles in its value, but
    not the array of a variable that several processes share.
    """
    value = variable.value
    if backend() != "jax":
        return value
    import jax

    given = isinstance(value, jax.core.Tracer) or value.is_fully_addressable
    return value if given else np.asarray(value)


def known_number(value) -> int | None:
    """Return a scalar tensor's value if eager execution need not wait for it.

    This is so on torch on the CPU; a GPU would have to finish first.
    """
    if backend() != "torch" or value.device.type != "cpu":
        return None
    import torch

    return None if torch.compiler.is_compiling() else int(value)


def where_kept(mask, value):
    """Return a tensor with pruned entries set to 0, even if NaN.

    Args:
        mask: Boolean tensor, True = kept.
        value: Tensor of the same shape.
    """
    if backend() == "torch":
        import torch

        # `ops.where` takes three times as long, in every kernel and step.
        return torch.where(mask, value, 0.0)
    return ops.where(mask, value, ops.zeros((), value.dtype))


def count_nonzero(value) -> int:
    """Return the number of nonzero entries of a tensor."""
    if not getattr(value, "is_fully_addressable", True) or "bool" in str(
        value.dtype
    ):
        # `ops.count_nonzero` warns on torch.
        return int(ops.sum(ops.cast(ops.not_equal(value, 0), "int32")))
    if hasattr(value, "read_value"):  # TensorFlow, with several replicas.
        value = value.read_value()
    if backend() == "tensorflow":
        value = np.asarray(value)  # Keras would copy it.
    # Not `ops.not_equal`: TensorFlow and JAX treat subnormal numbers as 0.
    return int(np.count_nonzero(ops.convert_to_numpy(value)))


def strategy_scope(model: keras.Model):
    """Return the scope in which to create variables for a model.

    Under a `tf.distribute` strategy, each replica has its own copy only of
    variables created in the strategy's scope.
    """
    strategy = strategy_of(model)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def outside_strategies(function):
    """Call a function outside the scope of any `tf.distribute` strategy."""
    if backend() == "tensorflow":
        import tensorflow as tf

        if tf.distribute.has_strategy():
            # Scopes are per thread.
            with concurrent.futures.ThreadPoolExecutor(1) as other:
                return other.submit(function).result()
    return function()


def outside_graphs():
    """Return a scope in which variables can be created during tracing."""
    if backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def compile_anew(model: keras.Model) -> None:
    """Recompile the train step, if it is already compiled."""
    if getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)


def give_each_its_own_buffer(variables: list[keras.Variable]) -> None:
    """Stop variables from sharing memory on JAX.

    Keras assigns the weights themselves to averages of weights. The train step
    then fails, because it donates the memory of each variable.
    """
    if backend() != "jax":
        return
    seen = set()
    for variable in variables:
        if id(variable.value) in seen:
            variable.assign(ops.copy(variable.value))
        seen.add(id(variable.value))
