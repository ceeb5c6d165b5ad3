"""Measures how many examples are trained on per second."""

import time
from typing import NamedTuple

import keras
import numpy as np

from keras_bimp._src.backends import put_back
from keras_bimp._src.checks import check_integer
from keras_bimp._src.masking import state_variables

_WARM = 3


class Throughput(NamedTuple):
    """Examples per second.

    Attributes:
        median: Of all steps.
        low: 25th percentile.
        high: 75th percentile.

    Example:

    >>> rate = keras_bimp.metrics.Throughput(900.0, low=880.0, high=910.0)
    >>> f"{rate.median:.0f} images/s"
    '900 images/s'
    """

    median: float
    low: float
    high: float


def train_throughput(
    model: keras.Model, x, y, batch_size: int = 32, steps: int = 20
) -> Throughput:
    """Measures how many examples, such as images, are trained on per second.

    Trains with `train_on_batch`, then restores all variables: the model does
    not change.

    Args:
        model: A compiled model.
        x: Inputs, an array or nested arrays of at least `batch_size` examples.
        y: Targets, in the same form.
        batch_size: Integer >= 1, examples per step.
        steps: Integer >= 2, how many steps to time, after a few to warm up.

    Returns:
        A `Throughput`.

    Raises:
        ValueError: If the model is not compiled, or there are too few
            examples.

    Example:

    ```python
    rate = keras_bimp.metrics.train_throughput(model, x, y)
    print(f"{rate.median:.0f} images/s")
    ```

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Section 3.3.
    """
    check_integer("batch_size", batch_size, minimum=1)
    check_integer("steps", steps, minimum=2)
    if not (isinstance(model, keras.Model) and model.compiled):
        raise ValueError(
            f"`model` must be a compiled keras.Model. Received: model={model!r}"
        )
    lengths = [len(array) for array in keras.tree.flatten((x, y))]
    if min(lengths) < batch_size:
        raise ValueError(
            "`x` and `y` must hold at least one batch. Received: "
            f"{min(lengths)} examples, batch_size={batch_size}"
        )
    x, y = keras.tree.map_structure(lambda array: array[:batch_size], (x, y))
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables = (
        *state_variables(model),
        *model.metrics_variables,
        *model.optimizer.variables,
    )
    seconds = []
    try:
        with put_back(variables):
            for _ in range(_WARM + steps):
                begin = time.perf_counter()
                model.train_on_batch(x, y)
                seconds.append(time.perf_counter() - begin)
    finally:
        model.reset_metrics()
    rates = batch_size / np.array(seconds[_WARM:])
    median, low, high = np.percentile(rates, (50, 25, 75))
    return Throughput(float(median), float(low), float(high))
