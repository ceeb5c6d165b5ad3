"""Checks of the arguments of `export` against its format and outputs."""

import re

from keras_bimp._src.backends import backend
from keras_bimp._src.checks import check_integer
from keras_bimp._src.exporting.formats import FORMATS


def check_goes_with(format, **given):
    """Refuse arguments that a format does not take."""
    for name, value in given.items():
        if value is not None and name not in FORMATS[format].takes:
            raise ValueError(
                f"`{name}` must not be given with format={format!r}. "
                f"Received: {name}={value!r}"
            )


def check_name(format, filepath):
    """Refuse a path without the suffix or version number of a format."""
    suffix = FORMATS[format].suffix
    if suffix is None:
        if not re.fullmatch("[0-9]+", filepath.name):
            raise ValueError(
                "`filepath` must end in an integer, the version number for "
                "TensorFlow Serving. "
                f"Received: filepath={str(filepath)!r}"
            )
    elif filepath.suffix != suffix:
        raise ValueError(
            f"`filepath` must end in '{suffix}' with format={format!r}. "
            f"Received: filepath={str(filepath)!r}"
        )


def checked_signatures(signatures):
    """Return `signatures` as a dict, or `None`."""
    if signatures is None:
        return None
    taken = ("serve", "serving_default", "classify")
    if not isinstance(signatures, dict) or not all(
        isinstance(name, str)
        and name.isidentifier()
        and name not in taken
        and callable(function)
        for name, function in signatures.items()
    ):
        raise ValueError(
            "`signatures` must be a dict from names to callables, and no name "
            f"may be one of {', '.join(map(repr, taken))}. "
            f"Received: signatures={signatures!r}"
        )
    if backend() != "tensorflow":
        raise ValueError(
            "`signatures` must be None on backends other than TensorFlow. "
            "Save the model, then load and export it with "
            f"KERAS_BACKEND=tensorflow. Received: backend '{backend()}'"
        )
    return dict(signatures)


def checked_labels(labels, top_k, run):
    """Return labels as a list, or `None`, and how many of them to return."""
    check_integer("top_k", top_k, 1)
    if labels is None:
        return None, top_k
    labels = [labels] if isinstance(labels, str) else list(labels)
    _, outputs = run()
    shapes = [y.shape[1:] for y in outputs]
    if shapes != [(len(labels),)] or not all(
        isinstance(label, str) for label in labels
    ):
        raise ValueError(
            "`labels` must be strings, one per output of a model with one "
            f"vector of outputs. Received: {len(labels)} labels, outputs of "
            f"shapes {shapes}, labels={labels[:9]!r}"
        )
    return labels, min(top_k, len(labels))
