"""Where the backends of Keras differ, and where a model's variables live."""

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
    """The backend of Keras: "tensorflow", "jax" or "torch"."""
    return keras.backend.backend()


def eager_on_torch(function):
    """Lets `torch.compile` leave a function alone, which it cannot compile.

    It does not know how to trace what Keras does in a `StatelessScope`.
    """
    if backend() != "torch":
        return function
    import torch

    return torch.compiler.disable(function)


def as_array(variable: keras.Variable, copy: bool = True) -> np.ndarray:
    """A variable's value, the whole of it.

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
    if hasattr(value, "read_value"):  # Of TensorFlow, in several replicas.
        value = value.read_value()
    if not copy and backend() == "tensorflow":
        # Keras would copy it. TensorFlow writes nothing into memory that an
        # array shows.
        return np.asarray(value)
    value = ops.convert_to_numpy(value)
    return np.array(value) if copy else value


def numpy_dtype(variable: keras.Variable) -> np.dtype:
    """The type that the arrays of a variable have."""
    name = keras.backend.standardize_dtype(variable.dtype)
    return np.dtype(getattr(ml_dtypes, name, name))


def in_type_of(variable: keras.Variable, array: np.ndarray) -> np.ndarray:
    """An array of a variable that comes from a file.

    NumPy's files do not know bfloat16: it comes back as bytes.
    """
    return (
        array.view(numpy_dtype(variable)) if array.dtype.kind == "V" else array
    )


@contextlib.contextmanager
def put_back(variables: Iterable[keras.Variable]) -> Iterator[None]:
    """Gives variables back, in the end, the values that they have now."""
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
    """Whether no single process holds the whole of a variable."""
    value = variable.value
    return backend() == "jax" and not (
        value.is_fully_addressable or value.is_fully_replicated
    )


def in_step(variable: keras.Variable):
    """A variable's value, for use inside a compiled step.

    JAX compiles it in unless the step is given it. It refuses to do so with
    the array of a variable that several processes share.
    """
    value = variable.value
    if backend() != "jax":
        return value
    import jax

    given = isinstance(value, jax.core.Tracer) or value.is_fully_addressable
    return value if given else np.asarray(value)


def known_number(value) -> int | None:
    """What a scalar tensor holds, if a step runs eagerly and need not wait.

    That is so on torch, on the CPU: a GPU would have to finish first.
    """
    if backend() != "torch" or value.device.type != "cpu":
        return None
    import torch

    return None if torch.compiler.is_compiling() else int(value)


def where_kept(mask, value):
    """A tensor with 0 in place of what is pruned, NaN included.

    Args:
        mask: Boolean tensor, True = kept.
        value: Tensor of the same shape.
    """
    if backend() == "torch":
        import torch

        # `ops.where` takes three times as long, for every kernel and step.
        return torch.where(mask, value, 0.0)
    return ops.where(mask, value, ops.zeros((), value.dtype))


def count_nonzero(value) -> int:
    """The number of entries of a tensor that are not 0."""
    if not getattr(value, "is_fully_addressable", True) or "bool" in str(
        value.dtype
    ):
        # `ops.count_nonzero` warns on torch.
        return int(ops.sum(ops.cast(ops.not_equal(value, 0), "int32")))
    if hasattr(value, "read_value"):  # Of TensorFlow, in several replicas.
        value = value.read_value()
    if backend() == "tensorflow":
        value = np.asarray(value)  # Keras would copy it.
    # Not `ops.not_equal`: TensorFlow and JAX take subnormal numbers for 0.
    return int(np.count_nonzero(ops.convert_to_numpy(value)))


def strategy_scope(model: keras.Model):
    """The scope in which variables that go with a model's are to be made.

    Under a `tf.distribute` strategy each replica has its own copy of a
    variable only if that was made in the strategy's scope.
    """
    strategy = strategy_of(model)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def outside_strategies(function):
    """Calls a function where no `tf.distribute` strategy is in scope."""
    if backend() == "tensorflow":
        import tensorflow as tf

        if tf.distribute.has_strategy():
            # A scope is that of one thread.
            with concurrent.futures.ThreadPoolExecutor(1) as other:
                return other.submit(function).result()
    return function()


def outside_graphs():
    """The scope in which a variable can be made while a step is traced."""
    if backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def compile_anew(model: keras.Model) -> None:
    """Makes the train step be compiled again, if it is compiled already."""
    if getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)


def give_each_its_own_buffer(variables: list[keras.Variable]) -> None:
    """Ends that variables share memory on JAX.

    Keras assigns averages of weights to the weights as they are. The train
    step then fails, which gives the memory of each variable away.
    """
    if backend() != "jax":
        return
    seen = set()
    for variable in variables:
        if id(variable.value) in seen:
            variable.assign(ops.copy(variable.value))
        seen.add(id(variable.value))
