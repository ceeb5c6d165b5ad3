"""Figures of runs: a score over epochs, sparsity or theoretical speedup."""

import statistics

AXES = {
    "epoch": "epoch",
    "sparsity": "sparsity in %",
    "theoretical_speedup": "theoretical speedup",
}


def lines(groups, name_of, x):
    """Returns the lines to plot: name -> x -> values of all seeds.

    Args:
        groups: Lists of entries, dicts with `run` and `found`, that differ
            only in their seed.
        name_of: Function from an entry to the name of its line.
        x: A key of `AXES`.
    """
    found = {}
    for group in groups:
        line = found.setdefault(name_of(group[0]), {})
        if x == "epoch":
            for epoch, values in _over_epochs(group):
                line[epoch] = values
        else:
            place = statistics.mean(entry["found"][x] for entry in group)
            place *= 100 if x == "sparsity" else 1
            line[place] = [entry["found"]["test"] for entry in group]
    return found


def _over_epochs(group):
    """Returns pairs of an epoch and all seeds' validation, in percent."""
    histories = [entry["found"]["history"] for entry in group]
    name = next(
        name
        for name in histories[0]
        if name.startswith("val_")
        and not name.startswith("val_loss")
        and not name.endswith("_pruning")
    )
    columns = zip(*(history[name] for history in histories), strict=False)
    for epoch, values in enumerate(columns, start=1):
        known = [100 * value for value in values if value is not None]
        if known:
            yield epoch, known


def draw(lines, x, measure, path):
    """Plots means, with bands from the smallest to the largest value.

    Args:
        lines: The result of `lines`.
        x: A key of `AXES`.
        measure: The name of the score, for the axis.
        path: File to write.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, line in lines.items():
        places = sorted(line)
        means = [statistics.mean(line[place]) for place in places]
        (drawn,) = axes.plot(places, means, marker=".", label=name)
        axes.fill_between(
            places,
            [min(line[place]) for place in places],
            [max(line[place]) for place in places],
            color=drawn.get_color(),
            alpha=0.2,
            linewidth=0,
        )
    axes.set_xlabel(AXES[x])
    axes.set_ylabel(f"{measure} in %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
