"""The settings of a run of the study, and files of runs."""

import dataclasses
import hashlib
import json
import os
import pathlib

# The settings that each method uses, in addition to the common ones.
_PRUNING = ("allocation", "criterion", "granularity", "on_collapse")
_RETRAINING = ("target_sparsity", "cycles", "retraining", *_PRUNING)
FIELDS_OF_METHOD = {
    "dense": ("schedule", "keep_epochs"),
    "bimp": ("dense_epochs", *_RETRAINING),
    "imp": (
        "schedule",
        "keep_epochs",
        "retrain_epochs",
        "retrain_learning_rate",
        "retrain_warmup",
        *_RETRAINING,
    ),
    "gmp": ("target_sparsity", "schedule", "allocation", "settings"),
    **dict.fromkeys(
        ("gsm", "lc", "dpf", "dnw"),
        ("target_sparsity", "schedule", "settings"),
    ),
    **dict.fromkeys(("cs", "str", "dst"), ("schedule", "settings")),
}
_ALWAYS = (
    "task",
    "subset",
    "augment",
    "network",
    "network_options",
    "method",
    "epochs",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "batch_size",
    "seed",
)


def setting(default, description):
    """Returns a field of `Run` with the help text of its flag."""
    metadata = {"help": description}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Run:
    """All settings that determine the result of a run, except the machine."""

    task: str = setting("cifar10", "Data set, a name for `data.load`.")
    subset: int = setting(0, "Number of training examples; 0 for all.")
    augment: bool = setting(True, "Whether to augment training examples.")
    network: str = setting("resnet56", "A function of `networks`.")
    network_options: dict = setting({}, "Its keyword arguments, as JSON.")
    method: str = setting("bimp", f"One of {', '.join(FIELDS_OF_METHOD)}.")
    epochs: int = setting(
        200, "Epochs in total; for `imp`, of the dense training before it."
    )
    optimizer: str = setting("sgd", "sgd (Nesterov momentum 0.9) or adam.")
    learning_rate: float = setting(0.1, "Peak of dense training.")
    weight_decay: float = setting(1e-4, "Coupled, of the kernels.")
    batch_size: int = setting(128, "Of training.")
    schedule: str = setting(
        "stepped", "Learning rates of dense training, see `rates.py`."
    )
    dense_epochs: int | str = setting(
        100, "For `bimp`, before the first pruning; or auto."
    )
    target_sparsity: float = setting(0.9, "To prune to.")
    cycles: int | str = setting(1, "How often to prune and retrain; or auto.")
    retrain_epochs: int = setting(
        10, "For `imp`, per cycle; in total if `cycles` is auto."
    )
    retrain_learning_rate: float = setting(
        0.0, "For `imp`, the peak of its cycles; 0 for that of dense training."
    )
    retrain_warmup: float = setting(
        0.0, "Warm-up fraction of `constant`, `stepped`, `cosine`, `linear`."
    )
    retraining: str = setting("allr", "How to retrain; or auto.")
    allocation: str = setting(
        "global", "Sparsity of each kernel; or auto, except for `gmp`."
    )
    criterion: str = setting("magnitude", "Which weights are pruned first.")
    granularity: str = setting("weight", "What is pruned as one.")
    on_collapse: str = setting("protect", "protect, raise or ignore.")
    settings: dict = setting({}, "Of a pruning-stable method, as JSON.")
    keep_epochs: str = setting(
        "", "Epochs of dense training to keep, for `retraining=wr`: 180,190."
    )
    seed: int = setting(0, "Seed of initialization, order and augmentation.")

    def __post_init__(self):
        if self.method not in FIELDS_OF_METHOD:
            raise ValueError(
                f"`method` must be one of {', '.join(FIELDS_OF_METHOD)}. "
                f"Received: method={self.method!r}"
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float and isinstance(value, int | str):
                # YAML reads 1e-4 as text.
                object.__setattr__(self, field.name, float(value))
            if field.type == int | str and str(value).isdigit():
                object.__setattr__(self, field.name, int(value))
        if "allocation" in self.settings:
            raise ValueError(
                "`settings` must not hold `allocation`, which is a setting of "
                f"the run. Received: settings={self.settings}"
            )

    def facts(self):
        """Returns the settings that its method uses, as in JSON."""
        names = _ALWAYS + FIELDS_OF_METHOD[self.method]
        known = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in known if name in names}

    @property
    def key(self):
        """Returns text that is the same only for equal runs."""
        return json.dumps(self.facts(), sort_keys=True)

    @property
    def digest(self):
        """Returns a name for files of this run."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:16]

    def dense(self):
        """Returns the dense training that a run of `imp` begins with."""
        return dataclasses.replace(self, method="dense")

    def flags(self):
        """Returns the flags of `run.py` for this run."""
        for name, value in self.facts().items():
            text = json.dumps(value) if isinstance(value, dict) else value
            yield f"--{name}={text}"


def append(path, entry):
    """Adds a line to a file that several processes write to."""
    line = json.dumps(entry).encode() + b"\n"
    with open(path, "ab", buffering=0) as file:
        file.write(line)  # In one write, so that lines do not mix.


def read(path):
    """Returns the lines of a file as dicts, without an unfinished one."""
    path = pathlib.Path(path)
    if not path.exists():
        return []
    entries = []
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


def mend(path):
    """Ends an unfinished last line, so that the next begins on a new line."""
    path = pathlib.Path(path)
    if path.exists() and path.stat().st_size:
        with open(path, "rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
