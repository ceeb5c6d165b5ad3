"""Chooses the kernels that are faster sparse, by measuring them."""

import functools
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np

from keras_bimp._src.exporting.sparse_kernels.candidates import Candidate
from keras_bimp._src.exporting.sparse_kernels.swapped_calls import sparse
from keras_bimp._src.exporting.sparse_kernels.swapped_calls import steps_at_once
from keras_bimp._src.interleaved_timing import in_turns
from keras_bimp._src.keras_internals.saving import get_input_signature
from keras_bimp._src.kernel_choices import KernelChoice
from keras_bimp._src.kernel_choices import SparseKernels
from keras_bimp._src.replaced_calls import replaced

# The speedups that a kernel alone must reach at every batch size to be tried.
# Below 1, it may still pay off if its neighbors are sparse too, which saves
# transposing its inputs. The better of the two choices is taken.
_LEAST = (0.75, 1.05)
_LEAST_OF_MODELS = 1.03  # Less may be noise.

_SECONDS = 0.5  # For all rounds of one kernel.
_ROUNDS = (5, 50)  # The minimum and maximum number of rounds.
_SECONDS_OF_MODELS = 3.0
_ROUNDS_OF_MODELS = (5, 60)


def choose_all(kernels: Sequence[Candidate]) -> SparseKernels:
    """Chooses every kernel that can be sparse."""
    return SparseKernels(
        tuple(
            _choice(kernel, kernel.reason is None, kernel.reason or "")
            for kernel in kernels
        )
    )


def choose_by_time(
    model: keras.Model,
    kernels: Sequence[Candidate],
    inputs: list[np.ndarray],
    batch_sizes: Sequence[int],
    tell: Callable,
) -> SparseKernels:
    """Chooses the kernels that are faster sparse at every batch size.

    Args:
        model: A plain, built model on the TensorFlow backend.
        kernels: Its kernels.
        inputs: Examples, as a flat list of arrays.
        batch_sizes: The batch sizes.
        tell: Callable that reports progress; see `waiting`.
    """
    open_ones = [kernel for kernel in kernels if kernel.reason is None]
    if not open_ones:
        return choose_all(kernels)
    batches = {n: [_of_size(x, n) for x in inputs] for n in batch_sizes}
    shapes = {
        n: _input_shapes(model, open_ones, batch)
        for n, batch in batches.items()
    }
    measured, speedups = {}, {}
    for i, kernel in enumerate(open_ones):
        tell("measuring its kernels", i, len(open_ones))
        speedups[kernel.path] = {
            n: min(
                (
                    _speedup(kernel, shape, measured)
                    for shape in shapes[n][id(kernel.layer)]
                ),
                default=0.0,
            )
            for n in batch_sizes
        }
    tell("measuring it as a whole")
    tried = {}
    for least in _LEAST:
        those = [
            kernel
            for kernel in open_ones
            if min(speedups[kernel.path].values()) >= least
        ]
        if those and len(those) not in tried:
            found = _speedups_of_model(model, those, batches)
            tried[len(those)] = those, found
    best, found = max(
        tried.values(), key=lambda one: min(one[1].values()), default=([], {})
    )
    if not found or min(found.values()) < _LEAST_OF_MODELS:
        best, found = [], {}
    names = {kernel.path for kernel in best}
    return SparseKernels(
        tuple(
            _choice(
                kernel,
                kernel.path in names,
                kernel.reason or ("" if kernel.path in names else _SLOWER),
                speedups.get(kernel.path),
            )
            for kernel in kernels
        ),
        found,
    )


def sparse_ones(
    kernels: Sequence[Candidate], chosen: SparseKernels
) -> list[Candidate]:
    """Returns the kernels that were chosen to be sparse."""
    return [
        kernel
        for kernel, choice in zip(kernels, chosen.choices, strict=True)
        if choice.sparse
    ]


def _choice(kernel, is_sparse, reason, speedups=None):
    return KernelChoice(
        kernel.path,
        kernel.shape,
        kernel.sparsity,
        is_sparse,
        reason,
        speedups or {},
    )


def _of_size(array, size):
    """Returns a batch of the given size, repeating examples if needed."""
    return array[np.arange(size) % len(array)]


def _input_shapes(model, kernels, inputs):
    """Returns the `id` of each layer -> the shapes of its inputs."""
    found = {id(kernel.layer): set() for kernel in kernels}

    def record(kernel, x, *args, **kwargs):
        found[id(kernel.layer)].add((*map(_known, x.shape),))
        return method[id(kernel.layer)](x, *args, **kwargs)

    method = {id(kernel.layer): kernel.layer.call for kernel in kernels}
    functions = [
        (kernel.layer, "call", functools.partial(record, kernel))
        for kernel in kernels
    ]
    steps = steps_at_once(model, [kernel.layer for kernel in kernels])
    with replaced([*functions, *steps]):
        _traced(model, inputs, dynamic=False)
        if any(None in shape for shapes in found.values() for shape in shapes):
            for shapes in found.values():
                shapes.clear()
            _compute(model, inputs)
    return found


def _known(size):
    return None if size is None else int(size)


def _traced(model, inputs, dynamic=True):
    """Returns the inference of a model as a traced `tf.function`."""
    import tensorflow as tf

    specs = [
        tf.TensorSpec(
            (None if dynamic else len(x), *x.shape[1:]),
            "string" if x.dtype.kind == "U" else x.dtype,
        )
        for x in inputs
    ]
    return tf.function(
        lambda *x: _compute(model, x), autograph=False
    ).get_concrete_function(*specs)


def _compute(model, inputs):
    from keras import tree

    given = tree.pack_sequence_as(get_input_signature(model), list(inputs))
    return model(*given, training=False)


def _speedup(kernel, shape, measured):
    """Returns the speedup of one sparse kernel, for inputs of a shape."""
    import tensorflow as tf

    layer, computing = kernel.layer, kernel.computing
    key = (
        type(layer),
        kernel.shape,
        shape,
        round(float(np.log1p(-min(kernel.sparsity, 1 - 1e-6))), 1),
        str(_settings(layer)),
    )
    if key not in measured:
        spec = tf.TensorSpec((None, *shape[1:]), layer.compute_dtype)
        x = np.random.default_rng(0).standard_normal(shape)
        x = tf.constant(x, layer.compute_dtype)
        dense = tf.function(
            lambda x: type(layer).call(computing, x), autograph=False
        ).get_concrete_function(spec)
        with sparse(layer, [kernel]):
            other = tf.function(
                lambda x: layer.call(x), autograph=False
            ).get_concrete_function(spec)
        functions = [functools.partial(f, x) for f in (dense, other)]
        before, after = in_turns(functions, _SECONDS, _ROUNDS)
        measured[key] = _ratio(before, after)
    return measured[key]


def _settings(layer):
    """Returns the settings in which layers with equal kernel shapes differ."""
    config = layer.get_config()
    return {
        key: value
        for key, value in sorted(config.items())
        if key not in ("name", "trainable", "dtype")
        and not key.endswith(("initializer", "regularizer", "constraint"))
    }


def _speedups_of_model(model, kernels, batches):
    """Returns batch size -> the model's speedup with these kernels."""
    import tensorflow as tf

    first = next(iter(batches.values()))
    dense = _traced(model, first)
    with sparse(model, kernels):
        other = _traced(model, first)
    found = {}
    for n, batch in batches.items():
        batch = [tf.constant(x) for x in batch]
        functions = [functools.partial(f, *batch) for f in (dense, other)]
        before, after = in_turns(
            functions, _SECONDS_OF_MODELS, _ROUNDS_OF_MODELS
        )
        found[n] = _ratio(before, after)
    return found


def _ratio(before, after):
    """Returns the ratio of low quantiles, which noise affects least."""
    return float(np.percentile(before, 25) / np.percentile(after, 25))


_SLOWER = "not faster at every batch size"
