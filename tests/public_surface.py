"""The public functions and classes: what the API pages and the tests list."""

import importlib
import inspect

MODULES = (
    "keras_bimp",
    "keras_bimp.schedules",
    "keras_bimp.sparsity",
    "keras_bimp.selection",
    "keras_bimp.baselines",
    "keras_bimp.metrics",
    "keras_bimp.masking",
    "keras_bimp.reporting",
    "keras_bimp.exporting",
    "keras_bimp.backup",
)
# Of these, no more than that is for users.
ONLY = {
    "keras_bimp.masking": ("Rule", "Hard"),
    "keras_bimp.reporting": ("Report",),
}
# What other rooms import, and users have no use for.
INTERNAL = {
    "keras_bimp.backup": ("Generations", "UnreadableError"),
    "keras_bimp.metrics": ("EffectiveKernels",),
    "keras_bimp.schedules": ("Joined", "discount_variable"),
    "keras_bimp.selection": (
        "Chosen",
        "Part",
        "Policy",
        "Shards",
        "Structures",
        "as_granularity",
        "as_policy",
        "by_kernel",
        "choose",
        "counts",
        "digests",
        "norms",
    ),
}


def names(module_name: str) -> list[str]:
    """What a module offers to users."""
    module = importlib.import_module(module_name)
    found = ONLY.get(module_name) or getattr(module, "__all__", None)
    if found is None:
        found = [
            name
            for name, thing in vars(module).items()
            if getattr(thing, "__module__", None) == module_name
            and not name.startswith("_")
        ]
    # `import *` must not hide a builtin; `baselines.str` is public still.
    if module_name == "keras_bimp.baselines":
        found = [*found, "str"]
    internal = INTERNAL.get(module_name, ())
    return [name for name in found if name not in internal]


def objects() -> list:
    """Pairs (path, function or class), each object once."""
    found = {}
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in names(module_name):
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                found.setdefault(id(thing), (f"{module_name}.{name}", thing))
    return list(found.values())
