"""Holds pruned weights at 0 where the training would move them."""

from types import NoneType

import keras
from keras import ops

from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import backend
from keras_bimp._src.backends import where_kept
from keras_bimp._src.keras_internals.layers import share_layout
from keras_bimp._src.slots import ranks_moved


class HeldAtZero(keras.constraints.Constraint):
    """Sets pruned weights to 0 after each update, inside the compiled step.

    Args:
        mask: The mask of the kernel, a boolean `keras.Variable`.
        inner: The constraint that the kernel had before, or `None`.
    """

    def __init__(self, mask: keras.Variable, inner=None):
        self.inner = inner
        self._mask = mask
        # A step of JAX must be given all variables that it reads. The
        # optimizer's are, the mask is not: it is compiled in, or a copy of it
        # is the optimizer's for a while.
        self._copy = self._compiled_in = None
        self.refresh()

    def refresh(self) -> bool:
        """Takes up what the mask is now; returns whether to compile again."""
        if self._copy is not None:
            self._copy.assign(ops.copy(self._mask.value))  # Not its buffer.
            return False
        if backend() == "jax":
            self._compiled_in = as_array(self._mask)
        return backend() == "jax"

    def copy_mask(self) -> keras.Variable:
        """Reads a copy of the mask from now on, which it returns."""
        self._compiled_in = None
        self._copy = keras.Variable(
            ops.copy(self._mask.value),
            dtype="bool",
            trainable=False,
            autocast=False,
        )
        share_layout(self._mask, self._copy)
        return self._copy

    def drop_copy(self) -> None:
        """Reads the copy no longer."""
        self._copy = None
        self.refresh()

    def __call__(self, w):
        if self.inner is not None:
            w = self.inner(w)
        w = ops.convert_to_tensor(w)
        mask = self._compiled_in
        if mask is None:
            mask = (self._mask if self._copy is None else self._copy).value
        return where_kept(mask, w)


def kernels_to_hold(masked_kernels: list[tuple], optimizer) -> list[tuple]:
    """Those of some kernels whose pruned weights an optimizer would move.

    Args:
        masked_kernels: Pairs of a kernel and its mask, `keras.Variable`s.
        optimizer: The optimizer that trains them, or `None`.

    Raises:
        ValueError: If the optimizer does to pruned weights what cannot be
            undone.
    """
    moved = set()
    if optimizer is not None and masked_kernels:
        moved = ranks_moved(
            optimizer, {len(kernel.shape) for kernel, _ in masked_kernels}
        )
    return [
        (kernel, mask)
        for kernel, mask in masked_kernels
        if len(kernel.shape) in moved
        or isinstance(kernel.constraint, HeldAtZero)
    ]


def hold_zeros(masked_kernels: list[tuple]) -> bool:
    """Keeps what is pruned now of some kernels at 0.

    To be called again when masks have changed.

    Returns:
        Whether a train step that is compiled already must be compiled anew.
    """
    return any([_hold(kernel, mask) for kernel, mask in masked_kernels])


def copy_masks(masked_kernels: list[tuple]) -> list[keras.Variable]:
    """Copies of the masks of kernels that are held, for a step of JAX.

    If it is given them, `hold_zeros` changes them, and it need not be compiled
    again. None where it is not JAX that compiles.
    """
    if backend() != "jax":
        return []
    return [kernel.constraint.copy_mask() for kernel, _ in masked_kernels]


def drop_copies(masked_kernels: list[tuple]) -> None:
    """Ends what `copy_masks` began."""
    for kernel, _ in masked_kernels:
        if isinstance(kernel.constraint, HeldAtZero):
            kernel.constraint.drop_copy()


def _hold(kernel, mask):
    if isinstance(kernel.constraint, HeldAtZero):
        return kernel.constraint.refresh()
    kernel.constraint = HeldAtZero(mask, kernel.constraint)
    return True


class OfWhatIsLeft(keras.regularizers.Regularizer):
    """A penalty on the weights that are not pruned.

    Args:
        mask: The mask of the kernel, a boolean `keras.Variable`.
        inner: The regularizer of the kernel.
    """

    def __init__(self, mask: keras.Variable, inner):
        self.inner = inner
        self._mask = mask

    def __call__(self, x):
        x = ops.convert_to_tensor(x)
        return self.inner(where_kept(self._mask.value, x))


def regularize_what_is_left(
    kernel: keras.Variable, mask: keras.Variable
) -> None:
    """Keeps a penalty from moving pruned weights, until `release`.

    L1 and L2 do not; one that looks at all weights of a kernel together does.
    """
    entry_by_entry = (
        keras.regularizers.L1,
        keras.regularizers.L2,
        keras.regularizers.L1L2,
        OfWhatIsLeft,
        NoneType,
    )
    if not isinstance(kernel.regularizer, entry_by_entry):
        kernel.regularizer = OfWhatIsLeft(mask, kernel.regularizer)


def release(kernel: keras.Variable) -> None:
    """Gives a kernel back the constraint and the penalty that it had."""
    if isinstance(kernel.constraint, HeldAtZero):
        kernel.constraint = kernel.constraint.inner
    if isinstance(kernel.regularizer, OfWhatIsLeft):
        kernel.regularizer = kernel.regularizer.inner
