"""What a callback must have for a `Backup` to set it back."""

import keras


class Resumable(keras.callbacks.Callback):
    """A callback that acts on the training and goes on where it was.

    `Backup` sets it back when `fit` begins. A
    callback that only looks on needs `get_state` and `set_state` alone, and no
    base class; it is set back before the first epoch.

    Attributes:
        leads: Whether it must be listed before `Backup`.
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
