"""BUILD matches the imports, and imports are not circular."""

import ast
import configparser
import re

import build_files
import pytest
from build_files import ROOT
from build_files import imports
from build_files import sources

# Each imports only those before it. A file outside of the rooms is a room.
ROOMS = (
    "keras_bimp/_src/__init__",
    "keras_bimp/_src/renamed",
    "keras_bimp/_src/version",
    "keras_bimp/_src/checks",
    "keras_bimp/_src/foreign_errors",
    "keras_bimp/_src/name_lists",
    "keras_bimp/_src/text_tables",
    "keras_bimp/_src/kernel_choices",
    "keras_bimp/_src/interleaved_timing",
    "keras_bimp/_src/progress_display",
    "keras_bimp/_src/kernel_layout",
    "keras_bimp/_src/keras_internals",
    "keras_bimp/_src/backends",
    "keras_bimp/_src/replaced_calls",
    "keras_bimp/_src/processes",
    "keras_bimp/_src/model_record",
    "keras_bimp/_src/failures",
    "keras_bimp/_src/fitting",
    "keras_bimp/_src/slots",
    "keras_bimp/_src/strategies",
    "keras_bimp/_src/sparsity_schedules",
    "keras_bimp/_src/schedules",
    "keras_bimp/_src/plan",
    "keras_bimp/_src/selection",
    "keras_bimp/_src/masking",
    "keras_bimp/_src/trial_values",
    "keras_bimp/_src/trial_runs",
    "keras_bimp/_src/evaluating",
    "keras_bimp/_src/shrinking",
    "keras_bimp/_src/metrics",
    "keras_bimp/_src/backup",
    "keras_bimp/_src/retraining",
    "keras_bimp/_src/baselines",
    "keras_bimp/_src/layer_sensitivity",
    "keras_bimp/_src/exporting/sparse_kernels",
    "keras_bimp/_src/exporting",
    "keras_bimp/_src/reporting",
    "keras_bimp",
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
    return f"{folder}/{file}" if folder == build_files.SOURCE else folder


def place(source):
    return ROOMS.index(room(source))


def declared():
    """Returns the distributions in setup.cfg: the required ones, and all."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = setup["options"]["install_requires"]
    extras = dict(setup["options.extras_require"])
    del extras["all"]  # Of the others.
    return tuple(
        {re.match(r"[\w.-]+", line)[0].replace("_", "-") for line in lines}
        for lines in (
            required.split(),
            " ".join([required, *extras.values()]).split(),
        )
    )


def upward_imports():
    """Returns imports of a room by one that does not come after it."""
    for source in sources():
        for path, line, _ in sorted(imports(source)):
            if path in sources() and place(path) > place(source):
                yield f"{source}:{line} imports {path}"


def circle():
    """Returns files with circular imports, if any."""
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
    """Writes files to a repository that is read instead of this one."""

    def write(**files):
        for name, text in files.items():
            path = (
                tmp_path / build_files.SOURCE / f"{name.replace('__', '/')}.py"
            )
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
        checks="def f():\n    from keras_bimp._src.masking import masked\n",
        masking__masked="import keras_bimp._src.checks\n",
    )
    assert list(upward_imports()) == [
        "keras_bimp/_src/checks.py:2 imports keras_bimp/_src/masking/masked.py"
    ]


def test_a_circle_within_a_room_is_found(broken):
    broken(
        plan__plan_table="from . import retraining_methods",
        plan__retraining_methods="from . import plan_table",
    )
    assert circle() == [
        "keras_bimp/_src/plan/plan_table.py",
        "keras_bimp/_src/plan/retraining_methods.py",
        "keras_bimp/_src/plan/plan_table.py",
    ]


def test_deps_follow_the_imports(broken):
    broken(
        checks="import pathlib\n",
        plan__plan_table="import rich\nfrom keras_bimp._src import checks\n",
        plan__plan="def f():\n    import yaml\n    import sklearn\n",
    )
    assert build_files.dependencies("base") == []
    assert build_files.dependencies("plan") == [
        ":base",
        "@pypi//pyyaml",
        "@pypi//rich",
        "@pypi//scikit_learn",
    ]
    path = "keras_bimp/_src/plan/plan.py"
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


def test_no_two_files_of_the_package_have_one_name():
    names = [source.rpartition("/")[2] for source in sources()]
    names = [
        name
        for source, name in zip(sources(), names, strict=True)
        if source.startswith(build_files.SOURCE) and name != "__init__.py"
    ]
    assert sorted(names) == sorted(set(names))
