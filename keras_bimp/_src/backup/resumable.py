"""What a callback must have for a `Backup` to set it back."""

import keras


class Resumable(keras.callbacks.Callback):
    """A callback that acts on the training and goes on where it was.

    `Backup` sets it back when `fit` begins. A
    callback that only looks on needs `get_state` and `set_state` alone, and no
    base class; it is set back before the first epoch.

    Attributes:
        leads: Whether it must be listed before `Backup`.

    Example:

    >>> class Steps(keras_bimp.backup.Resumable):
    ...     count = 0  # Of steps, in all programs that run one after another.
    ...
    ...     def on_train_batch_end(self, batch, logs=None):
    ...         self.count += 1
    ...
    ...     def get_state(self):
    ...         return {"count": self.count}
    ...
    ...     def set_state(self, state):
    ...         self.count = state["count"]
    >>> steps = Steps()
    >>> steps.set_state({"count": 100})
    >>> steps.on_train_batch_end(0)
    >>> steps.get_state()
    {'count': 101}
    """

    leads = True

    def facts(self) -> dict:
        """Facts, by name, that a run has in common with what it goes on from.

        Strings, numbers and lists of such.
        """
        return {}

    def get_state(self) -> dict:
        """What it remembers: dicts, lists, strings, numbers and arrays."""
        raise NotImplementedError

    def set_state(self, state: dict) -> None:
        """Sets it to what `get_state` returned, after `on_train_begin`."""
        raise NotImplementedError
