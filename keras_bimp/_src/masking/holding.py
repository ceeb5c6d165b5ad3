"""Hold pruned weights at 0 during training."""

from types import NoneType

import keras
from keras import ops

from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import backend
from keras_bimp._src.backends import where_kept
from keras_bimp._src.keras_internals.layers import share_layout
from keras_bimp._src.slots import ranks_moved


class HeldAtZero(keras.constraints.Constraint):
    """Constraint that zeroes pruned weights inside the compiled step.

    Args:
        mask: The kernel's mask, a boolean `keras.Variable`.
        inner: The kernel's previous constraint, or `None`.
    """

    def __init__(self, mask: keras.Variable, inner=None):
        self.inner = inner
        self._mask = mask
        # JAX must be given every variable that a step reads. It is given the
        # optimizer's variables but not the mask. So the mask is compiled in,
        # or the optimizer temporarily owns a copy of it.
        self._copy = self._compiled_in = None
        self.refresh()

    def refresh(self) -> bool:
        """Read the current mask; return whether to recompile the step."""
        if self._copy is not None:
            # Copied, because the buffer must not be shared.
            self._copy.assign(ops.copy(self._mask.value))
            return False
        if backend() == "jax":
            self._compiled_in = as_array(self._mask)
        return backend() == "jax"

    def copy_mask(self) -> keras.Variable:
        """Create a copy of the mask, use it from now on, and return it."""
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
        """Stop using the copy."""
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
    """Return the kernels whose pruned weights an optimizer would move.

    Args:
        masked_kernels: Pairs of a kernel and its mask, `keras.Variable`s.
        optimizer: The optimizer that trains them, or `None`.

    Raises:
        ValueError: If the optimizer changes pruned weights in a way that
            cannot be undone.
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
    """Hold the currently pruned weights of some kernels at 0.

    Call this again whenever masks change.

    Returns:
        Whether an already compiled train step must be recompiled.
    """
    return any([_hold(kernel, mask) for kernel, mask in masked_kernels])


def copy_masks(masked_kernels: list[tuple]) -> list[keras.Variable]:
    """Copy the masks of held kernels for a JAX train step.

    With these copies, `hold_zeros` updates the masks without recompiling the
    step. Returns an empty list on other backends.
    """
    if backend() != "jax":
        return []
    return [kernel.constraint.copy_mask() for kernel, _ in masked_kernels]


def drop_copies(masked_kernels: list[tuple]) -> None:
    """Discard the copies that `copy_masks` made."""
    for kernel, _ in masked_kernels:
        if isinstance(kernel.constraint, HeldAtZero):
            kernel.constraint.drop_copy()


def _hold(kernel, mask):
    if isinstance(kernel.constraint, HeldAtZero):
        return kernel.constraint.refresh()
    kernel.constraint = HeldAtZero(mask, kernel.constraint)
    return True


class OfWhatIsLeft(keras.regularizers.Regularizer):
    """Regularizer that sees only the remaining weights.

    Args:
        mask: The kernel's mask, a boolean `keras.Variable`.
        inner: The kernel's regularizer.
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
    """Keep a penalty from moving pruned weights, until `release`.

    L1 and L2 act on each weight alone and need no change; a penalty that
    looks at all weights of a kernel together does.
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
    """Restore a kernel's previous constraint and regularizer."""
    if isinstance(kernel.constraint, HeldAtZero):
        kernel.constraint = kernel.constraint.inner
    if isinstance(kernel.regularizer, OfWhatIsLeft):
        kernel.regularizer = kernel.regularizer.inner
