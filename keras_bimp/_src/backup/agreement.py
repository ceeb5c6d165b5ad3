"""Check that a saved state belongs to this run."""

import os

import keras
import numpy as np

from keras_bimp._src.backup.training_state import check_training
from keras_bimp._src.processes import gathered


def check_state(
    folder: os.PathLike,
    state: dict,
    run: dict,
    epochs: int,
    model: keras.Model,
) -> None:
    """Raise ValueError if a state does not belong to this run.

    Args:
        folder: Where the state comes from, for the message.
        state: A state that `Backup` wrote.
        run: Facts, by name, that the state must share with this run.
        epochs: Integer, number of epochs of this run.
        model: The model that is trained.
    """
    try:
        there = state["run"]
        for fact in {**run, **there}:
            if there.get(fact) != run.get(fact):
                raise ValueError(
                    f"a state of a run with {fact} = {there.get(fact)}, "
                    f"while this run has {run.get(fact)}"
                )
        if state["epoch"] > epochs:
            raise ValueError(
                f"a state after {state['epoch']} epochs, "
                f"while this run has only {epochs}"
            )
        check_training(model, state["training"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "`backup_dir` must be a folder of states of this version of "
            f"keras_bimp. Received: backup_dir={folder}: {error!r}"
        ) from error
    except ValueError as error:
        raise ValueError(
            "`backup_dir` must hold a state of this run, or none. "
            f"Received: backup_dir={folder}, which holds {error}. "
            "Use another folder, or delete it"
        ) from error


def check_processes(folder: os.PathLike, state: dict | None) -> None:
    """Raise ValueError if processes read different states."""
    place = [-1, -1] if state is None else [state["epoch"], state["batch"]]
    places = gathered(np.array(place)).tolist()
    if any(other != places[0] for other in places):
        raise ValueError(
            "`backup_dir` must be a folder that all processes share. "
            f"Received: backup_dir={folder}, where they find states "
            f"of (epoch, batch) {places}"
        )
