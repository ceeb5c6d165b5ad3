"""Find the smallest of many weights inside the train step."""

import math

from keras import ops

from keras_bimp._src.backends import backend


def kth_smallest(values: list, k):
    """Return the k-th smallest entry of several tensors together.

    If compiled, it uses bisection: about 25 passes over the entries are faster
    than sorting.

    Args:
        values: Tensors of one floating type, of any shapes.
        k: Scalar integer tensor, from 0 to the number of entries.

    Returns:
        A scalar of the same type: the smallest number such that at least `k`
        entries are <= it; `-1` if `k` is 0. The entries must be >= 0.
    """
    flat = _flat(values)
    k = ops.cast(k, "int32")
    low = ops.cast(-1, flat.dtype)
    if backend() == "torch":
        found = ops.sort(flat)[ops.maximum(k - 1, 0)]
    else:
        found = _bisect(flat, k, low)
    return ops.where(ops.equal(k, 0), low, found)


def smallest(values: list, k) -> list:
    """Return which entries of several tensors are the k smallest of all.

    Among equal entries, the first are chosen.

    Args:
        values: See `kth_smallest`.
        k: See `kth_smallest`.

    Returns:
        Boolean tensors of the same shapes.
    """
    flat = _flat(values)
    threshold = kth_smallest(values, k)
    below = flat < threshold
    equal = ops.cast(ops.equal(flat, threshold), "int32")
    missing = ops.cast(k, "int32") - ops.sum(ops.cast(below, "int32"))
    taken = ops.logical_and(equal > 0, ops.cumsum(equal) <= missing)
    chosen = ops.logical_or(below, taken)
    sizes = [math.prod(value.shape) for value in values]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [
        ops.reshape(chosen[end - size : end], value.shape)
        for value, size, end in zip(values, sizes, ends, strict=True)
    ]


def _flat(values):
    return ops.concatenate([ops.reshape(value, (-1,)) for value in values])


def _bisect(flat, k, low):
    def at_most(bound):
        return ops.sum(ops.cast(ops.less_equal(flat, bound), "int32"))

    def unfinished(low, high, count):
        middle = (low + high) / 2
        between = ops.logical_and(middle > low, middle < high)
        return ops.logical_and(between, ops.not_equal(count, k))

    def halve(low, high, count):
        middle = (low + high) / 2
        here = at_most(middle)
        enough = ops.greater_equal(here, k)
        return (
            ops.where(enough, low, middle),
            ops.where(enough, middle, high),
            ops.where(enough, here, count),
        )

    # Fewer than k entries are <= low; at least k are <= high.
    high = ops.max(flat)
    _, high, _ = ops.while_loop(
        unfinished, halve, (low, high, at_most(high)), maximum_iterations=1200
    )
    return ops.max(ops.where(ops.less_equal(flat, high), flat, low))
