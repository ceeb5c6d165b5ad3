"""Markdown tables and figures of runs, from their JSON lines.


```bash
python examples/study/tables.py --runs=output/study/runs.jsonl \
    --where='{"method": "imp", "task": "cifar10"}' \
    --rows=retraining --columns=target_sparsity,retrain_epochs
```

Runs that differ only in their seed are one cell: mean and standard deviation.
If runs of one cell also differ in other settings, those with the best
validation score are shown. In each column the best is **bold**, the second
<u>underlined</u>, the third *italic*.
"""

import json
import pathlib
import statistics

import figures
import runs
from absl import app
from absl import flags

FLAGS = flags.FLAGS

_MARKS = (("**", "**"), ("<u>", "</u>"), ("*", "*"))


def best(cell, found):
    """Returns the candidate of a cell with the best validation, or `None`.

    Runs that diverged are ignored.
    """
    done = [
        run
        for run in cell.candidates
        if found(run) and not found(run)["diverged"]
    ]
    return max(done, key=lambda run: found(run)["validation"], default=None)


def of_grid(grid, found):
    """Returns a grid's tables in Markdown.

    Args:
        grid: A `Grid`.
        found: Function from a run to its results; `None` if it is unfinished.
    """
    entries = []
    for cell in grid.cells:
        chosen = best(cell, found)
        if chosen is None:
            continue
        for run in [chosen, *cell.rest(chosen)]:
            if found(run):
                entries.append({"run": run.facts(), "found": found(run)})
    return "\n\n".join(table(entries, **spec) for spec in grid.tables)


def table(entries, rows, columns, value="test", where=None, spread="deviation"):
    """Returns one table.

    Args:
        entries: Dicts with `run`, the settings, and `found`, the results.
        rows: Names of the settings of rows.
        columns: Names of the settings of columns.
        value: The value to show: a name in `found`, or a path with dots, such
            as `prunings.-1.pruning_stability`.
        where: Settings of the runs to show.
        spread: What to show with the mean: "deviation", the standard
            deviation, or "error", the standard error of the mean.

    Returns:
        Markdown.
    """
    shown = with_best_settings(matching(entries, where or {}), rows, columns)
    cells = {
        place: [look_up(entry["found"], value) for entry in group]
        for place, group in shown.items()
    }
    row_titles = list(dict.fromkeys(row for row, _ in cells))
    column_titles = list(dict.fromkeys(column for _, column in cells))
    marks = {
        (row, column): mark
        for column in column_titles
        for row, mark in ranked(cells, column)
    }
    lines = [
        f"| {', '.join(rows)} | {' | '.join(column_titles)} |",
        "|---" * (1 + len(column_titles)) + "|",
    ]
    for row in row_titles:
        texts = []
        for column in column_titles:
            before, after = marks.get((row, column), ("", ""))
            text = with_spread(cells.get((row, column), []), spread)
            texts.append(f"{before}{text}{after}")
        lines.append(f"| {row} | {' | '.join(texts)} |")
    return "\n".join(lines)


def ranked(cells, column):
    """Returns the three best rows of a column, each with its mark."""
    means = {
        row: statistics.mean(values)
        for (row, of_column), values in cells.items()
        if of_column == column
    }
    places = sorted(means, key=means.get, reverse=True)
    return zip(places, _MARKS, strict=False) if len(means) > 1 else ()


def matching(entries, where):
    return [
        entry
        for entry in entries
        if all(
            entry["run"].get(name) in _as_list(value)
            for name, value in where.items()
        )
    ]


def _as_list(value):
    return value if isinstance(value, list) else [value]


def with_best_settings(entries, rows, columns):
    """Returns a list per cell: its runs with the best mean validation."""
    cells = {}
    for entry in entries:
        place = label(entry, rows), label(entry, columns)
        others = {k: v for k, v in entry["run"].items() if k != "seed"}
        key = json.dumps(others, sort_keys=True)
        cells.setdefault(place, {}).setdefault(key, []).append(entry)
    return {
        place: max(groups.values(), key=_mean_validation)
        for place, groups in cells.items()
    }


def _mean_validation(group):
    return statistics.mean(entry["found"]["validation"] for entry in group)


def label(entry, names):
    """Returns the title of a column or row."""
    texts = []
    for name in names:
        value = entry["run"].get(name)
        match name:
            case _ if value is None:
                text = ""
            case "target_sparsity":
                text = f"{100 * value:g}%"
            case "method" | "retraining":
                text = value.upper()
            case "retrain_epochs" | "epochs" | "dense_epochs":
                text = f"{value} epoch{'s' * (value != 1)}"
            case "cycles":
                text = f"{value} cycle{'s' * (value != 1)}"
            case _:
                text = str(value)
        texts.append(text)
    return ", ".join(filter(None, texts))


def look_up(found, path):
    for name in path.split("."):
        found = found[int(name) if isinstance(found, list) else name]
    return found


def with_spread(values, spread="deviation"):
    """Returns mean and standard deviation or error; "-" for no values."""
    if not values:
        return "-"
    text = f"{statistics.mean(values):.2f}"
    if len(values) == 1:
        return text
    deviation = statistics.stdev(values)
    if spread == "error":
        deviation /= len(values) ** 0.5
    return f"{text} +- {deviation:.2f}"


def define_flags():
    flags.DEFINE_string("runs", None, "File of JSON lines.", required=True)
    flags.DEFINE_string("where", "{}", "Settings of the runs, as JSON.")
    flags.DEFINE_list("rows", ["method"], "Settings for the rows.")
    flags.DEFINE_list("columns", ["target_sparsity"], "And for the columns.")
    flags.DEFINE_string("value", "test", "What to show.")
    flags.DEFINE_enum(
        "x", None, list(figures.AXES), "Plot over this, with a line per row."
    )
    flags.DEFINE_string("figure", "figure.png", "Where to draw.")


def main(_):
    entries = runs.read(FLAGS.runs)
    where = json.loads(FLAGS.where)
    print(table(entries, FLAGS.rows, FLAGS.columns, FLAGS.value, where))
    if FLAGS.x:
        shown = matching(entries, where)
        groups = with_best_settings(shown, FLAGS.rows, FLAGS.columns)
        lines = figures.lines(
            groups.values(), lambda entry: label(entry, FLAGS.rows), FLAGS.x
        )
        measure = shown[0]["found"]["measure"]
        figures.draw(lines, FLAGS.x, measure, FLAGS.figure)
        print(f"Drawn: {pathlib.Path(FLAGS.figure)}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
