"""Whether a state is one that a run may go on from."""

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
    """Raises ValueError if a state is not that of this run.

    Args:
        folder: Where it comes from, for the message.
        state: What `Backup` wrote.
        run: Facts, by name, that the state must have in common with this run.
        epochs: Integer, how many this run is to have.
        model: The model that is trained.
    """
    try:
        there = state["run"]
        for fact in {**run, **there}:
            if there.get(fact) != run.get(fact):
                raise ValueError(
                    f"one of a run with {fact} = {there.get(fact)}, "
                    f"where this has {run.get(fact)}"
                )
        if state["epoch"] > epochs:
            raise ValueError(
                f"one of a run that has had {state['epoch']} epochs, "
                f"where this is to have {epochs}"
            )
        check_training(model, state["training"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "`backup_dir` must be a folder of states of this version of "
            f"keras_bimp. Received: backup_dir={folder}: {error!r}"
        ) from error
    except ValueError as error:
        raise ValueError(
            "`backup_dir` must hold the state of this very run, or none. "
            f"Received: backup_dir={folder}, which holds {error}. "
            "Use another folder, or delete it"
        ) from error


def check_processes(folder: os.PathLike, state: dict | None) -> None:
    """Raises ValueError if several processes read different states."""
    place = [-1, -1] if state is None else [state["epoch"], state["batch"]]
    places = gathered(np.array(place)).tolist()
    if any(other != places[0] for other in places):
        raise ValueError(
            "`backup_dir` must be a folder that all processes share. "
            f"Received: backup_dir={folder}, where they find states "
            f"of (epoch, batch) {places}"
        )
