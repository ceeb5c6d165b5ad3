"""The interface of callbacks that `Backup` restores."""

import keras


class Resumable(keras.callbacks.Callback):
    """A callback that affects training and can be resumed.

    `Backup` restores it when `fit` begins. A callback that only observes needs
    just `get_state` and `set_state`, not this base class; it is restored
    before the first epoch.

    Attributes:
        leads: Whether it must be listed before `Backup`.
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
