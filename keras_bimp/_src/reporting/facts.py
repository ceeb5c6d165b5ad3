"""What a report tells: numbers and short texts, without any drawing."""

import dataclasses
from dataclasses import dataclass

# The status of a table that could be pruned, but is not by default.
ONLY_IF_ASKED = "a table, which only `filters` asks for"


@dataclass(frozen=True)
class KernelFacts:
    """One kernel of the model.

    Args:
        path: Its path, unique within the model.
        layer: Class of the layer that holds it, `"Conv2D"` say.
        shape: Its shape.
        left: How many of its entries are not 0.
        dense_macs: Multiply-adds for one example with all its entries;
            `None` if not known.
        macs: The same with the zeros left out.
        status: `"pruned"`, `"dense"` or why it was skipped.
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    left: int
    dense_macs: int | None
    macs: int | None
    status: str

    @property
    def size(self) -> int:
        """How many entries it has."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def sparsity(self) -> float:
        """The share of its entries that are 0, in [0, 1]."""
        return 1 - self.left / self.size if self.size else 0.0


@dataclass(frozen=True)
class SizeFacts:
    """How large a file the model makes, in bytes.

    Args:
        format: `".keras"` or `"SavedModel"`.
        raw: Bytes as written.
        gzipped: Bytes after `gzip -1`.
        dense_raw: The same of the dense model, or `None`.
        dense_gzipped: The same of the dense model, or `None`.
    """

    format: str
    raw: int
    gzipped: int
    dense_raw: int | None = None
    dense_gzipped: int | None = None


@dataclass(frozen=True)
class TimeFacts:
    """How long a prediction takes, in seconds per batch.

    Each is a triple: median, 25th and 75th percentile.

    Args:
        batch_size: Examples in the batch.
        seconds: Of the model.
        dense_seconds: Of the dense model, measured in turns with it, or
            `None`.
        speedup: Of the ratios dense / model within each turn, or `None`.
    """

    batch_size: int
    seconds: tuple[float, float, float]
    dense_seconds: tuple[float, float, float] | None = None
    speedup: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Histogram:
    """How the weights in the kernels are distributed.

    Args:
        edges: Limits of the bins, one more than there are bins.
        counts: How many weights that are not 0 fall into each bin.
        dense_counts: The same of the dense model, or `None`.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    dense_counts: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Phase:
    """A phase of the training: dense, or one cycle of retraining.

    Args:
        name: `"dense"`, `"cycle 1"`, ...
        start: Its first epoch, counted from 0.
        end: The epoch after its last.
    """

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Verdict:
    """What the zeros do where the model is deployed.

    Args:
        target: `"TensorFlow Serving"` say.
        text: One sentence or two.
    """

    target: str
    text: str


@dataclass(frozen=True)
class Report:
    """What `keras_bimp.report` returns.

    Args:
        name: Name of the model.
        made_with: Versions and backend, in one line.
        status: `"complete"`, `"incomplete"`, `"failed"`; `"unknown"` if the
            model was not trained with a plan in this program.
        state: The same in a line, with figures.
        parameters: All parameters of the plain model.
        kernels: One `KernelFacts` per kernel, in the order of the model.
        sparsity: Share of zeros in the prunable weights, in [0, 1].
        total_sparsity: The same zeros over all parameters.
        dense_macs: Multiply-adds for one example; `None` if not known.
        macs: The same with the zeros left out.
        not_counted: Pairs of a layer and why its multiply-adds are missing.
        sizes: Files.
        times: Predictions; empty if not measured.
        metrics: Name -> pair of its value and that of the dense model (or
            `None`), on the data given.
        verdicts: One per target.
        history: Name -> one number per epoch, `None` where there is none.
        phases: Of the training, in order; empty if there is no history.
        histogram: Of the weights.
        missing: Pairs of what could not be measured and why.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> found = keras_bimp.report(model, latency=False, verbose=0)
    >>> found.parameters, found.as_dict()["sparsity"]
    (36, 0.0)
    """

    name: str
    made_with: str
    status: str
    state: str
    parameters: int
    kernels: tuple[KernelFacts, ...]
    sparsity: float
    total_sparsity: float
    dense_macs: int | None
    macs: int | None
    not_counted: tuple[tuple[str, str], ...] = ()
    sizes: tuple[SizeFacts, ...] = ()
    times: tuple[TimeFacts, ...] = ()
    metrics: dict[str, tuple[float, float | None]] = dataclasses.field(
        default_factory=dict
    )
    verdicts: tuple[Verdict, ...] = ()
    history: dict[str, list] = dataclasses.field(default_factory=dict)
    phases: tuple[Phase, ...] = ()
    histogram: Histogram | None = None
    missing: tuple[tuple[str, str], ...] = ()

    @property
    def left_out(self) -> tuple[KernelFacts, ...]:
        """The tables that stay as they are, for nobody asked for them."""
        return tuple(k for k in self.kernels if k.status == ONLY_IF_ASKED)

    @property
    def theoretical_speedup(self) -> float | None:
        """Multiply-adds of the dense model over those that are left."""
        if not self.dense_macs or not self.macs:
            return None
        return self.dense_macs / self.macs

    def as_dict(self) -> dict:
        """All of it as dicts, lists, numbers and strings, for JSON."""
        found = dataclasses.asdict(self)
        found["theoretical_speedup"] = self.theoretical_speedup
        for facts, kernel in zip(found["kernels"], self.kernels, strict=True):
            facts["size"] = kernel.size
            facts["sparsity"] = kernel.sparsity
        return found
