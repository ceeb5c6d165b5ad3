"""Grids of runs, from YAML files.

```yaml
title: Six schedules
base: {task: cifar10, network: resnet8, epochs: 40}
grids:
  - method: imp
    target_sparsity: [0.95, 0.98]
    seed: [0, 1]
    choose: {weight_decay: [1e-4, 5e-4]}
tables:
  - {rows: [retraining], columns: [target_sparsity]}
```

A list is an axis, and all combinations of axes are run. Settings under `choose`
are chosen: the first seed is run with all of their values, the other seeds with
those that were best on the validation data.
"""

import dataclasses
import itertools
import pathlib

import yaml
from runs import Run


@dataclasses.dataclass(frozen=True)
class Cell:
    """Runs that differ only in seed and chosen settings.

    Attributes:
        candidates: The runs of the first seed, one for each choice.
        seeds: All seeds.
    """

    candidates: tuple[Run, ...]
    seeds: tuple[int, ...]

    def rest(self, chosen):
        """Returns the other seeds' runs with the settings of a candidate."""
        return [
            dataclasses.replace(chosen, seed=seed) for seed in self.seeds[1:]
        ]


@dataclasses.dataclass(frozen=True)
class Grid:
    """The runs and tables of a YAML file."""

    title: str
    cells: tuple[Cell, ...]
    tables: tuple[dict, ...]
    figures: tuple[dict, ...]

    @classmethod
    def read(cls, path):
        """Reads a file, and raises a ValueError if it is not valid."""
        content = yaml.safe_load(pathlib.Path(path).read_text())
        base = content.get("base", {})
        cells = {}
        for grid in content["grids"]:
            for cell in _cells(base | grid, path):
                cells.setdefault(
                    tuple(run.key for run in cell.candidates), cell
                )
        return cls(
            content.get("title", pathlib.Path(path).stem),
            tuple(cells.values()),
            tuple(content.get("tables", ())),
            tuple(content.get("figures", ())),
        )


def _cells(settings, path):
    names = {field.name for field in dataclasses.fields(Run)}
    choose = settings.pop("choose", {})
    unknown = {*settings, *choose} - names
    if unknown:
        raise ValueError(
            f"A grid must have settings of `Run`, which are "
            f"{', '.join(sorted(names))}. Received: "
            f"{', '.join(sorted(unknown))} in {path}"
        )
    seeds = tuple(_as_list(settings.pop("seed", 0)))
    for values in _product(settings):
        candidates = {}
        for choice in _product(choose):
            run = Run(**values, **choice, seed=seeds[0])
            candidates.setdefault(run.key, run)
        yield Cell(tuple(candidates.values()), seeds)


def _product(settings):
    lists = [_as_list(value) for value in settings.values()]
    for values in itertools.product(*lists):
        yield dict(zip(settings, values, strict=True))


def _as_list(value):
    return value if isinstance(value, list) else [value]
