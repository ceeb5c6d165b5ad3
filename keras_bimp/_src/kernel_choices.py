"""Record which kernels of an exported model are sparse, and why."""

import dataclasses
import json
import pathlib
import weakref

import keras

from keras_bimp._src.text_tables import tabulated

# Next to the files of TensorFlow Serving, which ignores others there.
_FILE = "assets.extra/sparse_kernels.json"

_LAST = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class KernelChoice:
    """How one kernel was exported.

    Args:
        kernel: Its path.
        shape: Its shape.
        sparsity: The share of zeros in it.
        sparse: Whether it is multiplied as a sparse matrix.
        reason: The reason for this choice.
        speedups: Batch size -> speedup of the sparse over the dense kernel;
            empty if nothing was measured.
    """

    kernel: str
    shape: tuple[int, ...]
    sparsity: float
    sparse: bool
    reason: str = ""
    speedups: dict[int, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SparseKernels:
    """How `export` handled the kernels of a model.

    `str()` is a table.

    Args:
        choices: One for each kernel.
        speedups: Batch size -> speedup of the whole model with sparse kernels
            over the dense model; empty if nothing was measured.
    """

    choices: tuple[KernelChoice, ...] = ()
    speedups: dict[int, float] = dataclasses.field(default_factory=dict)

    def __str__(self):
        sizes = sorted({n for c in self.choices for n in c.speedups})
        rows = [
            (
                choice.kernel,
                "x".join(map(str, choice.shape)),
                f"{choice.sparsity:.1%}",
                *(
                    f"{choice.speedups[n]:.2f}x" if n in choice.speedups else ""
                    for n in sizes
                ),
                "sparse" if choice.sparse else f"dense: {choice.reason}",
            )
            for choice in self.choices
        ]
        batches = (f"batch {n}" for n in sizes)
        titles = ("kernel", "shape", "zeros", *batches, "")
        return f"{tabulated(titles, rows)}\n{self.summary}"

    @property
    def summary(self) -> str:
        """One sentence about all kernels."""
        count = sum(choice.sparse for choice in self.choices)
        if not count:
            return "No kernel is sparse: all are multiplied as dense ones."
        text = f"{count} of {len(self.choices)} kernels are sparse"
        if not self.speedups:
            return f"{text}."
        ratios = ", ".join(
            f"{ratio:.2f} times as fast at batches of {size}"
            for size, ratio in self.speedups.items()
        )
        return f"{text}. The model as a whole is {ratios}."


def write(folder: pathlib.Path, kernels: SparseKernels) -> None:
    """Write the choices next to a SavedModel."""
    file = folder / _FILE
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(dataclasses.asdict(kernels), indent=1))


def read(folder: pathlib.Path) -> SparseKernels:
    """Read what `write` wrote; empty if there is no file."""
    file = folder / _FILE
    if not file.exists():
        return SparseKernels()
    known = json.loads(file.read_text())
    return SparseKernels(
        tuple(
            KernelChoice(
                **{
                    **choice,
                    "shape": tuple(choice["shape"]),
                    "speedups": _by_size(choice["speedups"]),
                }
            )
            for choice in known["choices"]
        ),
        _by_size(known["speedups"]),
    )


def remember(model: keras.Model, kernels: SparseKernels) -> None:
    """Record the choices of the last export of a model."""
    _LAST[model] = kernels


def last_choices(model: keras.Model) -> SparseKernels | None:
    """Return the choices of a model's last export in this process."""
    return _LAST.get(model)


def _by_size(speedups):
    return {int(size): ratio for size, ratio in speedups.items()}
