"""`sensitivity`: measure which layers tolerate pruning."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import keras
import numpy as np
import rich.box
import rich.table

from keras_bimp._src import selection
from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import put_back
from keras_bimp._src.checks import check_rate
from keras_bimp._src.masking import MaskedModel
from keras_bimp._src.masking import find_prunable
from keras_bimp._src.masking import masked_layers
from keras_bimp._src.masking import unique_paths
from keras_bimp._src.name_lists import listed
from keras_bimp._src.retraining import Accuracy
from keras_bimp._src.retraining import Samples
from keras_bimp._src.retraining import gradients
from keras_bimp._src.shrinking import find_units
from keras_bimp._src.text_tables import printed


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Accuracies of a model with one kernel pruned at a time.

    Created by `keras_bimp.sensitivity`. `str(...)` is a table.

    Args:
        baseline: Accuracy of the unchanged model.
        sparsities: The sparsities that were tried.
        accuracies: Path of each kernel -> its accuracies, one per sparsity.
        skipped: Pairs (path, reason) of kernels that were not tried.

    Example:

    >>> found = keras_bimp.Sensitivity(0.9, (0.5, 0.8), {"stem": (0.9, 0.6)})
    >>> found.suggested_caps(max_drop=0.05)
    {'stem': 0.5}
    """

    baseline: float
    sparsities: tuple[float, ...]
    accuracies: dict[str, tuple[float, ...]]
    skipped: tuple[tuple[str, str], ...] = ()

    def suggested_caps(self, max_drop: float = 0.02) -> dict[str, float]:
        """Return the highest sparsity of each kernel that costs little.

        Args:
            max_drop: Float >= 0, how much accuracy may be lost.

        Returns:
            Path of each kernel -> the largest tried sparsity up to which the
            loss stays within `max_drop`; 0.0 if even the smallest exceeds it.
            Pass it as `max_layer_sparsity`. Pruning all kernels to their caps
            together costs more than `max_drop`; retraining must recover it.
        """
        least = self.baseline - check_rate("max_drop", max_drop)
        caps = {}
        for path, accuracies in self.accuracies.items():
            caps[path] = 0.0
            for sparsity, accuracy in zip(
                self.sparsities, accuracies, strict=True
            ):
                if accuracy < least - 1e-9:
                    break
                caps[path] = sparsity
        return caps

    def plot(self, path: str | None = None):
        """Plot the accuracies as a heat map.

        Args:
            path: File to save the figure to. By default it is not saved.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "Plotting needs matplotlib: pip install matplotlib"
            ) from error
        names = list(self.accuracies)
        figure = Figure(
            figsize=(3.5 + 0.7 * len(self.sparsities), 1.4 + 0.3 * len(names)),
            layout="constrained",
        )
        axes = figure.subplots()
        values = np.array([self.accuracies[name] for name in names])
        best = max(self.baseline, values.max())
        image = axes.imshow(values, aspect="auto", cmap="viridis", vmax=best)
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(
            range(len(self.sparsities)), [f"{s:g}" for s in self.sparsities]
        )
        middle = (values.min() + best) / 2
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                axes.text(
                    column,
                    row,
                    f"{100 * value:.1f}",
                    ha="center",
                    va="center",
                    fontsize="small",
                    color="white" if value < middle else "black",
                )
        axes.set_xlabel("sparsity of this kernel alone")
        axes.set_title(f"Accuracy in %; {100 * self.baseline:.1f} unchanged")
        figure.colorbar(image, format=lambda value, _: f"{100 * value:.0f}")
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure

    def __str__(self):
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("accuracy in %, sparsity")
        for sparsity in self.sparsities:
            table.add_column(f"{sparsity:g}", justify="right")
        table.add_column("cap", justify="right")
        caps = self.suggested_caps()
        for name, accuracies in self.accuracies.items():
            table.add_row(
                name,
                *(f"{100 * accuracy:.1f}" for accuracy in accuracies),
                f"{caps[name]:g}",
            )
        lines = [f"accuracy of the unchanged model: {100 * self.baseline:.1f}%"]
        lines.append(printed(table, 1000))
        lines += [f"not tried: {path} ({why})" for path, why in self.skipped]
        return "\n".join(lines)


def sensitivity(
    model: keras.Model,
    data,
    sparsities: Sequence[float] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98),
    *,
    criterion: str | Callable | selection.Criterion = "magnitude",
    granularity: str | selection.Granularity = "weight",
    filters: str | list[str] | Callable | None = None,
    exclude: str | list[str] | Callable | None = None,
    metric: str | None = None,
    data_fraction: float = 1.0,
    verbose: int = 1,
) -> Sensitivity:
    """Prune each kernel alone, to each sparsity, and measure the accuracy.

    The model is restored afterwards. Nothing is retrained, so the results
    rank kernels but do not predict the accuracy after retraining.

    Args:
        model: A compiled model, plain or wrapped, with an accuracy among its
            metrics.
        data: A tuple of arrays `(x, y)`, or batches, such as a
            `tf.data.Dataset` or a `PyDataset`. Do not use the test data if the
            result decides how you prune.
        sparsities: Floats in [0, 1), ascending.
        criterion: See `keras_bimp.select`.
        granularity: See `keras_bimp.select`.
        filters: Which layers to try: a regex or list of regexes searched in
            the layer's name and path, or a callable layer -> bool. Defaults
            to all.
        exclude: Which layers not to try, in the same form.
        metric: Name of the metric to use; larger must be better. By default
            the one whose name ends in "accuracy" or "acc".
        data_fraction: Float in (0, 1], the share of `data` to use: its first
            batches.
        verbose: 0 is silent; 1 shows the progress.

    Returns:
        A `Sensitivity`. Its `str()` is a table, `plot()` a heat map, and
        `suggested_caps()` a value for `max_layer_sparsity`.

    Raises:
        ValueError: If the model reports no accuracy, there is nothing to
            prune, or an argument is invalid.

    Example:

    ```python
    result = keras_bimp.sensitivity(model, (x, y), data_fraction=0.1)
    print(result)
    result.plot("sensitivity.png")
    callbacks = keras_bimp.callbacks(
        0.9, dense_epochs=40, max_layer_sparsity=result.suggested_caps()
    )
    ```

    Reference:

    - Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient
      ConvNets", ICLR 2017, Section 3.2 (sensitivity of single layers).
    """
    if metric == "loss":
        raise ValueError(
            "`metric` must be larger for better models. Received: metric='loss'"
        )
    granularity = selection.as_granularity(granularity)
    policy = selection.as_policy(
        granularity.default_allocation and "uniform",
        criterion,
        granularity,
        "ignore",
    )
    sparsities = _ascending(policy, sparsities)
    samples = Samples(data, data_fraction)
    masks = {
        id(kernel.variable): mask
        for layer in masked_layers(model)
        for kernel, mask in zip(layer.kernels, layer.masks, strict=True)
    }
    plain = model.wrapper.layer if isinstance(model, MaskedModel) else model
    found = find_prunable(plain, filters, exclude)
    if filters is None and masks:
        # Include kernels that `wrap` masked by a filter, such as embeddings.
        every = find_prunable(plain, lambda _: True, exclude)
        known = {id(kernel.variable) for kernel in found.kernels} | set(masks)
        found = dataclasses.replace(
            every,
            kernels=tuple(k for k in every.kernels if id(k.variable) in known),
        )
    skipped = dict(found.skipped)
    kernels = {}
    for path, kernel in zip(
        unique_paths(found.kernels), found.kernels, strict=True
    ):
        reason = granularity.refuses(kernel.layout)
        if reason is None:
            kernels[path] = kernel
        else:
            skipped[path] = reason
    trials = {path: ([kernel], None) for path, kernel in kernels.items()}
    if isinstance(granularity, selection.Unit) and kernels:
        trials, without = _trials_of_units(plain, kernels)
        skipped.update(without)
    if not trials:
        reasons = listed(f"{p} ({why})" for p, why in skipped.items())
        raise ValueError(
            "`model` must have a kernel to prune. "
            f"Received: {reasons or 'a model without kernels'}"
        )
    accuracy = Accuracy(samples, "keras_bimp.sensitivity", metric)
    slopes = {}
    if policy.criterion.needs_gradients:
        variables = [kernel.variable for kernel in kernels.values()]
        found = gradients(model, variables, samples)
        slopes = {id(v): g for v, g in zip(variables, found, strict=True)}
    baseline = accuracy(model)
    accuracies = {}
    bar = keras.utils.Progbar(len(trials), unit_name="kernel", verbose=verbose)
    for path, (pruned, groups) in trials.items():
        accuracies[path] = tuple(
            _accuracy_with(
                pruned,
                masks,
                slopes,
                groups,
                sparsity,
                policy,
                lambda: accuracy(model),
            )
            for sparsity in sparsities
        )
        bar.add(1)
    return Sensitivity(baseline, sparsities, accuracies, tuple(skipped.items()))


def _ascending(policy, sparsities):
    if not isinstance(sparsities, Iterable):
        raise TypeError(
            "`sparsities` must be a sequence of numbers. "
            f"Received: sparsities={sparsities!r}"
        )
    sparsities = tuple(sparsities)
    checked = tuple(policy.check_target("sparsities", s) for s in sparsities)
    if not checked or list(checked) != sorted(set(checked)):
        raise ValueError(
            "`sparsities` must hold numbers in ascending order. "
            f"Received: sparsities={sparsities}"
        )
    return checked


def _trials_of_units(model, kernels):
    """Return what is pruned at a time, if units are pruned.

    Returns:
        Path of the kernel that computes some units -> pair of all kernels that
        they span and their `Structures`; and path -> reason for kernels
        without units.
    """
    paths, owners = list(kernels), list(kernels.values())
    parts, why = find_units(model, [kernel.variable for kernel in owners])
    structures = selection.Structures(parts)
    pools = {}
    for pool in structures.pools:
        pools.setdefault(pool.computing[0], []).append(pool)
    trials = {}
    for first, some in sorted(pools.items()):
        members = np.concatenate([pool.members for pool in some])
        reached = sorted({i for pool in some for i, _ in pool.parts})
        trials[paths[first]] = (
            [owners[i] for i in reached],
            structures.among(members, reached),
        )
    return trials, {
        path: reason
        for path, reason in zip(paths, why, strict=True)
        if reason is not None
    }


def _accuracy_with(kernels, masks, slopes, groups, sparsity, policy, measure):
    """Return the result of `measure` with kernels temporarily pruned."""
    weights = [as_array(kernel.variable) for kernel in kernels]
    held = [masks.get(id(kernel.variable)) for kernel in kernels]
    alive = [
        np.ones(array.shape, bool) if mask is None else as_array(mask)
        for array, mask in zip(weights, held, strict=True)
    ]
    kept = selection.choose(
        weights,
        sparsity,
        policy,
        masks=alive,
        layouts=[kernel.layout for kernel in kernels],
        names=[kernel.path for kernel in kernels],
        gradients=[slopes[id(kernel.variable)] for kernel in kernels]
        if slopes
        else None,
        groups=groups,
        allow_empty=True,
    ).masks
    changes = [
        (kernel.variable, np.where(stay, array, np.zeros((), array.dtype)))
        if mask is None
        else (mask, stay)
        for kernel, array, mask, stay in zip(
            kernels, weights, held, kept, strict=True
        )
    ]
    with put_back(variable for variable, _ in changes):
        for variable, pruned in changes:
            variable.assign(pruned)
        return measure()
