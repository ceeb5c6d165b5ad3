"""The interface of callbacks that `Backup` restores."""

import keras


class Resumable(keras.callbacks.Callback):
    """A callback that affects training and can be resumed.

    `Backup` restores it when `fit` begins. A callback that only observes needs
    just `get_state` and `set_state`, not this base class; it is restored
    before the first epoch.

    Attributes:
        leads: Whether it must be listed before `Backup`.

    Example:

    >>> class Steps(keras_bimp.backup.Resumable):
    ...     count = 0  # Steps so far, across restarts.
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
        """Return facts, by name, that a run shares with its saved state.

        Strings, numbers and lists of them.
        """
        return {}

    def get_state(self) -> dict:
        """Return its state: dicts, lists, strings, numbers and arrays."""
        raise NotImplementedError

    def set_state(self, state: dict) -> None:
        """Restore a state of `get_state`, after `on_train_begin`."""
        raise NotImplementedError
