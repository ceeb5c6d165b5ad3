"""BUILD says what the files import, and imports go one way."""

import ast
import configparser
import re

import build_files
import pytest
from build_files import ROOT
from build_files import imports
from build_files import sources

# Each imports those before it alone. A file beside the rooms is a room.
ROOMS = (
    "keras_bimp/version",
    "keras_bimp/checks",
    "keras_bimp/hearsay",
    "keras_bimp/listing",
    "keras_bimp/tabulating",
    "keras_bimp/kernel_choices",
    "keras_bimp/turns",
    "keras_bimp/waiting",
    "keras_bimp/layout",
    "keras_bimp/keras_internals",
    "keras_bimp/backends",
    "keras_bimp/calls",
    "keras_bimp/processes",
    "keras_bimp/record",
    "keras_bimp/failures",
    "keras_bimp/fitting",
    "keras_bimp/slots",
    "keras_bimp/strategies",
    "keras_bimp/sparsity",
    "keras_bimp/schedules",
    "keras_bimp/plan",
    "keras_bimp/selection",
    "keras_bimp/masking",
    "keras_bimp/trial_values",
    "keras_bimp/trial_runs",
    "keras_bimp/evaluating",
    "keras_bimp/shrinking",
    "keras_bimp/metrics",
    "keras_bimp/backup",
    "keras_bimp/retraining",
    "keras_bimp/baselines",
    "keras_bimp/layer_sensitivity",
    "keras_bimp/exporting/sparse_kernels",
    "keras_bimp/exporting",
    "keras_bimp/reporting",
    "keras_bimp/__init__",
    "examples/study/data",
    "examples/study/networks",
    "examples/study/foreign",
    "examples/study/tfmot_peer",
    "examples/study",
    "examples",
    "tests",
)


def room(source):
    folder, _, file = source.removesuffix(".py").rpartition("/")
    return f"keras_bimp/{file}" if folder == "keras_bimp" else folder


def place(source):
    return ROOMS.index(room(source))


def declared():
    """Sets of distributions in setup.cfg: the required ones, and all."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = setup["options"]["install_requires"]
    extras = setup["options.extras_require"].values()
    return tuple(
        {re.match(r"[\w.-]+", line)[0].replace("_", "-") for line in lines}
        for lines in (
            required.split(),
            " ".join([required, *extras]).split(),
        )
    )


def upward_imports():
    """Imports of a room by one that does not come after it."""
    for source in sources():
        for path, line, _ in sorted(imports(source)):
            if path in sources() and place(path) > place(source):
                yield f"{source}:{line} imports {path}"


def circle():
    """Files that import each other in a circle, or nothing."""
    done = []

    def visit(source, above):
        if source in above:
            return [*above[above.index(source) :], source]
        if source not in done:
            for path in sorted(build_files.local_imports(source) - {source}):
                if found := visit(path, [*above, source]):
                    return found
            done.append(source)
        return []

    return next(filter(None, (visit(source, []) for source in sources())), [])


def test_build_is_what_the_files_import():
    written = (ROOT / "BUILD").read_text("utf-8")
    assert written == build_files.text(), "python tests/build_files.py --write"
    assert len(written.splitlines()) < 400


def test_every_file_is_in_a_room():
    assert {room(source) for source in sources()} == set(ROOMS)
    assert len(set(ROOMS)) == len(ROOMS)


def test_rooms_import_only_rooms_before_them():
    assert not list(upward_imports())


def test_no_import_is_circular():
    assert not circle()


def test_deps_are_targets_and_no_target_depends_on_itself():
    targets = build_files.targets()
    order = []
    while left := set(targets) - set(order):
        ready = [
            name
            for name in sorted(left)
            if all(
                dep.startswith("@") or dep[1:] in order
                for dep in build_files.dependencies(name)
            )
        ]
        assert ready, f"circular, or no targets: {sorted(left)}"
        order += ready
    assert order[-1] == "tests"


def test_what_is_imported_at_once_is_required():
    required, _ = declared()
    found = {
        f"{source} imports {package}"
        for source in sources()
        if source.startswith("keras_bimp/")
        for package in build_files.installed(source, at_once=True) - required
    }
    assert not found


def test_what_is_imported_is_declared_and_locked():
    _, every = declared()
    lock = (ROOT / "requirements_lock.txt").read_text("utf-8")
    locked = set(re.findall(r"^([\w-]+)==", lock, re.MULTILINE))
    found = {p for source in sources() for p in build_files.installed(source)}
    assert found <= every
    assert found | every - {"tensorflow-cpu"} <= locked


# The checks themselves, on files that break a rule.


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """Writes files into a repository, and reads that instead of this one."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / "keras_bimp" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(build_files, "ROOT", tmp_path)
    forget()
    yield write
    forget()


def forget():
    sources.cache_clear()
    imports.cache_clear()


def test_an_import_upward_is_found(broken):
    broken(
        checks="def check():\n    from keras_bimp.masking import masked\n",
        masking__masked="import keras_bimp.checks\n",
    )
    assert list(upward_imports()) == [
        "keras_bimp/checks.py:2 imports keras_bimp/masking/masked.py"
    ]


def test_a_circle_within_a_room_is_found(broken):
    broken(
        plan__table="from . import methods",
        plan__methods="from keras_bimp.plan.table import rows",
    )
    assert circle() == [
        "keras_bimp/plan/methods.py",
        "keras_bimp/plan/table.py",
        "keras_bimp/plan/methods.py",
    ]


def test_deps_follow_the_imports(broken):
    broken(
        checks="import pathlib\n",
        plan__table="import rich.box\nfrom keras_bimp import checks\n",
        plan__plan="def f():\n    import yaml\n    import sklearn\n",
    )
    assert build_files.dependencies("base") == []
    assert build_files.dependencies("plan") == [
        ":base",
        "@pypi//pyyaml",
        "@pypi//rich",
        "@pypi//scikit_learn",
    ]
    path = "keras_bimp/plan/plan.py"
    assert build_files.installed(path) == {"pyyaml", "scikit-learn"}
    assert build_files.installed(path, at_once=True) == set()
    tree = ast.parse(build_files.text())
    (deps,) = (
        ast.literal_eval(keyword.value)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "deps"
    )
    assert deps == build_files.dependencies("plan")
