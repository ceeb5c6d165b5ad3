"""`report`: all that is worth telling about a pruned model."""

import csv
import io
import json
import math
import os
import pathlib

import keras

from keras_bimp._src.progress_display import waiting
from keras_bimp._src.reporting.facts import Report
from keras_bimp._src.reporting.gathering import gather
from keras_bimp._src.reporting.page import check_page_packages
from keras_bimp._src.reporting.page import page
from keras_bimp._src.reporting.report_kernels import kernels_of
from keras_bimp._src.reporting.terminal_text import table
from keras_bimp._src.retraining import Samples


def report(
    model: keras.Model,
    dense: keras.Model | None = None,
    data=None,
    history: keras.callbacks.History | dict | None = None,
    path: str | os.PathLike | None = None,
    *,
    latency: bool = True,
    input_shape=None,
    verbose: int = 1,
) -> Report:
    """Tells how sparse, small and fast a model became, and what that is worth.

    Prints a table of all kernels, with what was pruned, what was not and why;
    multiply-adds; sizes of files as they are and gzipped; measured times of
    predictions beside the theoretical speedup; and what zeros do on each
    target of deployment. What cannot be measured is listed with the reason.
    Nothing of the model is changed.

    Args:
        model: A built model: plain, wrapped or stripped. It may be quantized:
            its kernels are those that it computes with.
        dense: The same model before the pruning, to compare with.
        data: A tuple of arrays `(x, y)`, or batches, to evaluate the model,
            and `dense`, on, which are compiled then.
        history: What `fit` returned, or its `history`.
        path: Where to write a page, `"report.html"` say, that needs no other
            file; the same numbers go to a `.json` and a `.csv` beside it.
            Folders are made. This needs `pip install "keras_bimp[report]"`.
        latency: Whether to measure times. That takes some 10 seconds for a
            small model, and a minute or two for a ResNet-50 on a few cores.
        input_shape: Shape of the inputs with the batch first, if the model
            takes several sizes, as `(None, 224, 224, 3)`; a list or dict of
            such if it has several inputs; or a batch of examples. Defaults to
            the first of `data`, if the model takes several sizes.
        verbose: 0 prints nothing.

    Returns:
        A `reporting.Report`, which holds all these numbers.

    Raises:
        TypeError: If `model` or `dense` is no Keras model.
        ImportError: If `path` is given and jinja2 or matplotlib is not
            installed.
        ValueError: If one is not built or has nothing prunable, or `path` does
            not end in ".html" or cannot be written to.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> found = keras_bimp.report(model, latency=False, verbose=0)
    >>> found.dense_macs, found.sparsity
    (32, 0.0)

    Reference:

    - Blalock et al., "What is the State of Neural Network Pruning?", MLSys
      2020, Section 6, for what a report should hold.
    """
    path = None if path is None else pathlib.Path(path)
    if path is not None and path.suffix != ".html":
        raise ValueError(
            f"`path` must end in '.html'. Received: path={str(path)!r}"
        )
    for name, each in (("model", model), ("dense", dense)):
        if each is None and name == "dense":
            continue
        if not isinstance(each, keras.Model):
            raise TypeError(
                f"`{name}` must be a keras.Model. Received: {name}={each!r}"
            )
        if not each.built:
            raise ValueError(
                f"`{name}` must be built: give it a `keras.Input`, or call it "
                f"on a batch of data. Received: {name}={each!r}"
            )
        if not kernels_of(each):
            raise ValueError(
                f"`{name}` must have something prunable: a weight of rank 2 "
                f"or more whose name ends in 'kernel'. Received: {each!r}"
            )
    if path is not None:
        check_page_packages()
        _check_writable(path)
    samples = None if data is None else Samples(data)
    with waiting(f"Report of '{model.name}'", verbose) as tell:
        found = gather(
            model, dense, samples, history, latency, input_shape, tell
        )
    if verbose:
        print(table(found))
    if path is not None:
        _write(found, path)
    return found


def _check_writable(path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
    except OSError as error:
        raise ValueError(
            "`path` must be a file that can be written. "
            f"Received: path={str(path)!r}: {error}"
        ) from error


def _write(found, path):
    path.write_text(page(found), encoding="utf-8")
    # JSON knows no NaN: what is no finite number is null.
    numbers = keras.tree.map_structure(
        lambda x: None if isinstance(x, float) and not math.isfinite(x) else x,
        found.as_dict(),
    )
    text = json.dumps(numbers, indent=1, allow_nan=False)
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    path.with_suffix(".csv").write_text(_csv(found), encoding="utf-8")


def _csv(found):
    stream = io.StringIO()
    names = "path layer shape size left sparsity dense_macs macs status"
    writer = csv.DictWriter(stream, names.split(), extrasaction="ignore")
    writer.writeheader()
    for kernel in found.as_dict()["kernels"]:
        shape = "x".join(map(str, kernel["shape"]))
        writer.writerow({**kernel, "shape": shape})
    return stream.getvalue()
