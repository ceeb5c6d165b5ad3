"""Random number generators outside the model."""

import random

import keras
import numpy as np

from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import backend
from keras_bimp._src.keras_internals.saving import global_seed


def read_random_states() -> dict:
    """Return the generator states of Python, NumPy, Keras and torch."""
    version, words, gauss = random.getstate()
    states = {
        "python": [version, np.array(words, "uint32"), gauss],
        "numpy": np.random.get_state(legacy=False),
    }
    own = global_seed()
    if own is not None:
        states["keras"] = as_array(own)
    if backend() == "torch":
        states["torch"] = [_as_numpy(state) for state in _read_torch()]
    return states


def set_random_states(states: dict) -> None:
    """Restore all generators to states from `read_random_states`."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(states["numpy"])
    if "keras" in states:
        global_seed(make=True).assign(states["keras"])
    if "torch" in states:
        import torch

        first, *others = map(torch.from_numpy, states["torch"])
        torch.set_rng_state(first)
        if len(others) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(others)


def _read_torch():
    import torch

    yield torch.get_rng_state()
    if torch.cuda.is_available():
        yield from torch.cuda.get_rng_state_all()


def _as_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor).copy()
