"""The generators of random numbers that belong to no model."""

import random

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.random.seed_generator import global_seed_generator

from keras_bimp.backends import as_array
from keras_bimp.backends import backend


def read_random_states() -> dict:
    """The states of Python's, NumPy's, Keras' and torch's generators."""
    version, words, gauss = random.getstate()
    states = {
        "python": [version, np.array(words, "uint32"), gauss],
        "numpy": np.random.get_state(legacy=False),
    }
    own = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    if own is not None:
        states["keras"] = as_array(own.state)
    if backend() == "torch":
        states["torch"] = [_as_numpy(state) for state in _read_torch()]
    return states


def set_random_states(states: dict) -> None:
    """Sets all generators to what `read_random_states` returned."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(states["numpy"])
    if "keras" in states:
        global_seed_generator().state.assign(states["keras"])
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
