"""Criteria: scores of weights. The highest scores stay."""

import random
from collections.abc import Callable

import numpy as np

from keras_bimp._src.checks import check_choice
from keras_bimp._src.checks import check_integer
from keras_bimp._src.selection.scores import Scores
from keras_bimp._src.selection.shards import ShardedScores
from keras_bimp._src.selection.shards import Shards


class Criterion:
    """Base class for criteria.

    A plain callable `kernel -> scores` works too, if the scores depend only on
    the kernel.

    Attributes:
        needs_gradients: Whether it needs the gradients of the loss.
        measures: Whether scores are amounts, which can be summed and divided.

    Example:

    >>> kernels = [np.array([[-3.0], [1.0]])]
    >>> keras_bimp.select(kernels, 0.5, criterion=lambda kernel: kernel**3)
    [array([[False], [ True]])]
    """

    needs_gradients = False
    measures = True

    def scores(
        self, kernel: np.ndarray, *, index: int, gradient, name: str
    ) -> Scores:
        """Return the scores of a kernel's weights.

        Args:
            kernel: The kernel, in Keras layout.
            index: Integer index of the kernel.
            gradient: Gradient of the loss with respect to it, or `None`.
            name: Name of the kernel for error messages.
        """
        raise NotImplementedError(
            f"Criterion '{type(self).__name__}' must override `scores()`."
        )

    def __str__(self):
        return type(self).__name__.lower()


class Magnitude(Criterion):
    """Magnitude of a weight. For single weights, L1 and L2 are the same.

    Example:

    >>> kernels = [np.array([[-3.0], [1.0]])]
    >>> keras_bimp.select(kernels, 0.5, criterion="magnitude")
    [array([[ True], [False]])]

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Section 2.
    """

    def scores(self, kernel, *, index, gradient, name):
        if isinstance(kernel, Shards):
            return ShardedScores(kernel, name)
        return Scores(kernel, absolute=True, name=name)


class Random(Criterion):
    """Random scores, a baseline for other criteria.

    The score of a weight depends only on the seed, the index of the kernel and
    the position in the kernel. So a higher sparsity prunes the same weights
    and more.

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
    """Weight times gradient: the first-order estimate of the loss change.

    ```python
    score = abs(weight * gradient)
    ```

    The gradient is that of the mean loss over the data passed as `data=`, with
    the model in inference mode.

    Example:

    >>> kernels = [np.array([[-3.0], [1.0]])]
    >>> gradients = [np.array([[0.1], [2.0]])]
    >>> keras_bimp.select(
    ...     kernels, 0.5, criterion="saliency", gradients=gradients
    ... )
    [array([[False], [ True]])]

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
    """Wrapper for a user's callable kernel -> scores."""

    def __init__(self, function):
        self.function = function

    def scores(self, kernel, *, index, gradient, name):
        scores = np.asarray(self.function(kernel))
        if scores.shape != kernel.shape or scores.dtype.kind in "cOSUMm":
            raise ValueError(
                "`criterion` must return real scores of the kernel's shape. "
                f"Received: scores of shape {scores.shape} and dtype "
                f"{scores.dtype} for a kernel of shape {kernel.shape}"
            )
        return Scores(scores, name=name)

    def __str__(self):
        return getattr(self.function, "__name__", "a custom criterion")


CRITERIA = {"magnitude": Magnitude, "random": Random, "saliency": Saliency}


def as_criterion(criterion: str | Callable | Criterion) -> Criterion:
    """Look up a criterion, like `keras.losses.get`."""
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, type) and issubclass(criterion, Criterion):
        return criterion()
    if callable(criterion):
        return _Function(criterion)
    check_choice("criterion", criterion, CRITERIA)
    return CRITERIA[criterion]()
