"""The handwritten digits that come with scikit-learn."""

import functools

import sklearn.datasets
import sklearn.model_selection

from . import images


def load(name, data_dir, batch_size, subset, augment, seed):
    """Loads a task for `data.load`: 1,797 images of 8x8, not augmented."""
    del name, data_dir, augment
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    x = x.astype("float32").reshape(-1, 8, 8, 1)
    split = functools.partial(
        sklearn.model_selection.train_test_split,
        test_size=0.2,
        random_state=0,
    )
    x, x_test, y, y_test = split(x, y, stratify=y)
    x, x_held_out, y, y_held_out = split(x, y, stratify=y)
    parts = (
        (x[:subset], y[:subset]),
        (x_held_out, y_held_out),
        (x_test, y_test),
    )
    # Scales values from 0 to 16 to 0 to 1.
    return images.in_memory(
        parts, ((0.0,), (16 / 255,)), batch_size, seed, classes=10
    )
