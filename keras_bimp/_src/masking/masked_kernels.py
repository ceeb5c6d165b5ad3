"""The kernels that a `Masked` layer masks."""

from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.masking.prunable import FROZEN
from keras_bimp._src.masking.prunable import Kernel
from keras_bimp._src.masking.prunable import find_prunable
from keras_bimp._src.masking.prunable import is_trainable


class Inside:
    """The kernels of the inner layer of a `Masked`, each with its rule.

    Keeps them out of Keras' attribute tracking, because the `Masked` does not
    own them.

    Args:
        masked: The `Masked`, whose layer is built.

    Attributes:
        kernels: The masked kernels.
        rules: One rule per masked kernel.
        waiting: Frozen kernels to mask once they are trainable.
    """

    def __init__(self, masked):
        found = find_prunable(masked.layer, masked.filters, masked.exclude)
        self.kernels, self._left_out = found.kernels, found.left_out
        self.waiting = [k for k, why in found.left_out if why == FROZEN]
        if masked.indices is not None:
            self.kernels = _at_indices(masked.layer, masked.indices)
            self.waiting = [*_at_indices(masked.layer, masked.frozen or ())]
        self._rule = masked.rule
        self.rules = tuple(self._new_rule() for _ in self.kernels)
        weights = masked.layer.weights
        self._positions = {id(v): i for i, v in enumerate(weights)}

    @property
    def skipped(self):
        """Pairs (path, reason) of kernels without a mask."""
        masked = {id(kernel.variable) for kernel in self.kernels}
        return tuple(
            (kernel.path, why)
            for kernel, why in self._left_out
            if id(kernel.variable) not in masked
        )

    def unfrozen(self):
        """Return the waiting kernels that are now trainable."""
        return [k for k in self.waiting if is_trainable(k)]

    def take_unfrozen(self):
        """Add them to the masked kernels; return pairs (kernel, rule)."""
        taken = self.unfrozen()
        self.waiting = [k for k in self.waiting if not is_trainable(k)]
        rules = tuple(self._new_rule() for _ in taken)
        self.kernels = (*self.kernels, *taken)
        self.rules = (*self.rules, *rules)
        return list(zip(taken, rules, strict=True))

    def sort(self):
        """Sort kernels and rules by position; return the order."""
        at = self.positions(self.kernels)
        order = sorted(range(len(at)), key=at.__getitem__)
        self.kernels = tuple(self.kernels[i] for i in order)
        self.rules = tuple(self.rules[i] for i in order)
        return order

    def put(self, position, *variables):
        """Record that variables belong to the kernel at a position."""
        self._positions.update((id(v), position) for v in variables)

    def position_of(self, variable):
        """Return the position in `layer.weights` of a variable's kernel."""
        return self._positions.get(id(variable), len(self._positions))

    def positions(self, kernels):
        """Return the positions of several kernels."""
        return [self.position_of(kernel.variable) for kernel in kernels]

    def _new_rule(self):
        return type(self._rule).from_config(self._rule.get_config())


def _at_indices(layer, indices):
    weights = layer.weights
    if not all(0 <= i < len(weights) for i in indices):
        raise ValueError(
            "`indices` must be positions in `layer.weights`. "
            f"Received: indices={indices} for {len(weights)} weights"
        )
    # Inner layers come last, so the last owner is the innermost.
    owners = {id(v): x for x in layers_in(layer) for v in x.weights}
    return tuple(Kernel(weights[i], owners[id(weights[i])]) for i in indices)
