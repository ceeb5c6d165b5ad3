"""Tables of the results of `beside_tfmot.py`."""

import statistics

import paired_ratios

METHODS = ("keras", "bimp", "gmp", "gmp_uniform", "tfmot", "tf_keras")
DENSE = {"keras", "tf_keras"}
THEIRS = {"tfmot", "tf_keras"}
# Their methods -> the equivalent ones of keras_bimp.
TWINS = {"tfmot": "gmp_uniform", "tf_keras": "keras"}


def with_spread(values):
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} +- {statistics.stdev(values):.2f}"


def accuracy_table(results, dataset):
    """Returns Markdown: a row per method, a column per sparsity."""
    targets = sorted({r["target_sparsity"] for r, _ in results} - {0.0})
    titles = " | ".join(f"{target:.0%}" for target in targets)
    lines = [
        f"| {dataset} | dense | {titles} |",
        "|---" * (2 + len(targets)) + "|",
    ]
    for method in METHODS:
        cells = []
        for target in (0.0, *targets):
            found = [
                f["accuracy"]
                for r, f in results
                if (r["dataset"], r["method"], r["target_sparsity"])
                == (dataset, method, target)
            ]
            cells.append(with_spread(found) if found else "")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def same_start(results):
    """Says how far the losses of both sides differ before any pruning.

    Empty if no method of tfmot was run together with its equivalent.
    """
    first = {
        (r["dataset"], r["target_sparsity"], r["seed"], r["method"]): f[
            "losses"
        ][0]
        for r, f in results
    }
    apart = [
        abs(loss / first[*key, TWINS[method]] - 1)
        for (*key, method), loss in first.items()
        if (*key, TWINS.get(method)) in first
    ]
    if not apart:
        return ""
    return (
        "Loss in the first epoch, which prunes nothing: tfmot's and tf_keras' "
        "differ from those of gmp_uniform and keras by a fraction of "
        f"{max(apart):.0e} at most."
    )


def largest_miss(results):
    """Says how far from its target any run ended."""
    missed = max(abs(f["sparsity"] - r["target_sparsity"]) for r, f in results)
    return f"Sparsities reached: within {missed:.2%} of the target."


def speed_table(rounds, images):
    """Returns Markdown: a row per method."""
    lines = [
        "| method | images/s | as fast as tfmot, median [95% interval] | "
        "quartiles | as fast as dense with the same Keras | quartiles |",
        "|---|---|---|---|---|---|",
    ]

    def times_as_fast(method, other):
        return paired_ratios.described([r[other] / r[method] for r in rounds])

    for method in filter(rounds[0].get, METHODS):
        rate = statistics.median(images / r[method] for r in rounds)
        dense = "tf_keras" if method in THEIRS else "keras"
        lines.append(
            f"| {method} | {rate:.0f} | {times_as_fast(method, 'tfmot')} | "
            f"{times_as_fast(method, dense)} |"
        )
    return "\n".join(lines)


def as_markdown(results, rounds, images):
    """Returns all tables.

    Args:
        results: Pairs of a run and its results.
        rounds: Dicts method -> seconds of a turn; may be empty.
        images: Training images per turn.
    """
    datasets = dict.fromkeys(run["dataset"] for run, _ in results)
    parts = [accuracy_table(results, dataset) for dataset in datasets]
    parts.append(f"{same_start(results)} {largest_miss(results)}".strip())
    if rounds:
        parts.append(speed_table(rounds, images))
    return "\n\n".join(parts)
