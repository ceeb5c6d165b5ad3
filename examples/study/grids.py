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

A list is an axis: each of its values is run with each of every other axis. What
stands under `choose` is chosen: the first seed is run with all of it, the other
seeds with what was best on the validation data.
"""

import dataclasses
import itertools
import pathlib

import yaml
from runs import Run


@dataclasses.dataclass(frozen=True)
class Cell:
    """Runs that differ in seed and chosen settings alone.

    Attributes:
        candidates: Those of the first seed, one for each choice.
        seeds: All seeds.
    """

    candidates: tuple[Run, ...]
    seeds: tuple[int, ...]

    def rest(self, chosen):
        """The runs of the other seeds with the settings of a candidate."""
        return [
            dataclasses.replace(chosen, seed=seed) for seed in self.seeds[1:]
        ]


@dataclasses.dataclass(frozen=True)
class Grid:
    """What a YAML file asks for."""

    title: str
    cells: tuple[Cell, ...]
    tables: tuple[dict, ...]
    figures: tuple[dict, ...]

    @classmethod
    def read(cls, path):
        """Reads a file; raises a ValueError for what it cannot mean."""
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
