"""Criteria: what every weight of a kernel scores; the highest stay."""

import random
from collections.abc import Callable

import numpy as np

from keras_bimp._src.checks import check_choice
from keras_bimp._src.checks import check_integer
from keras_bimp._src.selection.scores import Scores
from keras_bimp._src.selection.shards import ShardedScores
from keras_bimp._src.selection.shards import Shards


class Criterion:
    """Base class of the criteria.

    A plain callable `kernel -> scores` does as well, where a kernel's scores
    depend on nothing else.

    Attributes:
        needs_gradients: Whether it is given the gradients of the loss.
        measures: Whether a score is an amount, so that sums and ratios of
            scores mean something.

    Example:

    >>> kernels = [np.array([[-3.0, 1.0]])]
    >>> keras_bimp.select(kernels, 0.5, criterion=lambda kernel: kernel**3)
    [array([[False,  True]])]
    """

    needs_gradients = False
    measures = True

    def scores(
        self, kernel: np.ndarray, *, index: int, gradient, name: str
    ) -> Scores:
        """Returns the scores of a kernel's weights.

        Args:
            kernel: The kernel, in Keras layout.
            index: Integer, which of the kernels it is.
            gradient: Gradient of the loss with respect to it, or `None`.
            name: What to call it in an error.
        """
        raise NotImplementedError(
            f"Criterion '{type(self).__name__}' must override `scores()`."
        )

    def __str__(self):
        return type(self).__name__.lower()


class Magnitude(Criterion):
    """The magnitude of a weight. For single weights L1 and L2 are the same.

    Example:

    >>> kernels = [np.array([[-3.0, 1.0]])]
    >>> keras_bimp.select(kernels, 0.5, criterion="magnitude")
    [array([[ True, False]])]

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Section 2.
    """

    def scores(self, kernel, *, index, gradient, name):
        if isinstance(kernel, Shards):
            return ShardedScores(kernel, name)
        return Scores(kernel, absolute=True, name=name)


class Random(Criterion):
    """Random scores: what any criterion must be better than.

    A weight's score depends on the seed, the kernel's place among the kernels
    and the weight's place in the kernel only. So a higher sparsity prunes the
    same weights and more.

    Args:
        seed: Integer >= 0. By default drawn from Python's generator, which
            `keras.utils.set_random_seed` seeds.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be.

    Example:

    >>> kernels = [np.ones((3, 2))]
    >>> criterion = keras_bimp.selection.Random(seed=7)
    >>> masks = keras_bimp.select(kernels, 0.5, criterion=criterion)
    >>> int(masks[0].sum())
    3
    """

    measures = False

    def __init__(self, seed: int | None = None):
        if seed is None:
            seed = random.randint(0, 2**31)
        self.seed = check_integer("seed", seed, minimum=0)

    def scores(self, kernel, *, index, gradient, name):
        rng = np.random.default_rng([self.seed, index])
        random_numbers = rng.random(kernel.shape, np.float32)
        return Scores(random_numbers, measures=False, name=name)


class Saliency(Criterion):
    """Weight times gradient: what the loss would change by, to first order.

    ```python
    score = abs(weight * gradient)
    ```

    The gradient is that of the mean loss over the data given as `data=`, with
    the model in inference mode.

    Example:

    >>> kernels, gradients = [np.array([[-3.0, 1.0]])], [np.array([[0.1, 2.0]])]
    >>> keras_bimp.select(
    ...     kernels, 0.5, criterion="saliency", gradients=gradients
    ... )
    [array([[False,  True]])]

    Reference:

    - Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for
      Neural Network Pruning", CVPR 2019, Section 3.1.
    - Lee et al., "JaxPruner: A Concise Library for Sparsity Research", 2023
      (`SaliencyPruning`).
    """

    needs_gradients = True

    def scores(self, kernel, *, index, gradient, name):
        exact = np.result_type(kernel.dtype, np.float32)
        product = kernel.astype(exact) * np.asarray(gradient, exact)
        return Scores(np.abs(product), name=name)


class _Function(Criterion):
    """A callable kernel -> scores that a user gives."""

    def __init__(self, function):
        self.function = function

    def scores(self, kernel, *, index, gradient, name):
        scores = np.asarray(self.function(kernel))
        if scores.shape != kernel.shape or scores.dtype.kind in "cOSUMm":
            raise ValueError(
                "`criterion` must return scores of the kernel's shape, real "
                f"numbers. Received: scores of shape {scores.shape} and dtype "
                f"{scores.dtype} for a kernel of shape {kernel.shape}"
            )
        return Scores(scores, name=name)

    def __str__(self):
        return getattr(self.function, "__name__", "a criterion of yours")


CRITERIA = {"magnitude": Magnitude, "random": Random, "saliency": Saliency}


def as_criterion(criterion: str | Callable | Criterion) -> Criterion:
    """Looks a criterion up as `keras.losses.get` does."""
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, type) and issubclass(criterion, Criterion):
        return criterion()
    if callable(criterion):
        return _Function(criterion)
    check_choice("criterion", criterion, CRITERIA)
    return CRITERIA[criterion]()
