"""Writes BUILD, with a target for each folder, from the files' imports.


    python tests/build_files.py --write

Without `--write` it is printed. A new file only changes BUILD if it has new
imports.
"""

import ast
import collections
import functools
import pathlib
import re
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ("keras_bimp", "examples", "tests")
# The implementation, below the public modules.
SOURCE = "keras_bimp/_src"
# Where Python searches for the modules of scripts and tests.
SCRIPTS = ("tests", "examples", "examples/study")
# The files outside of the rooms: rooms import most of them, and some import
# rooms. One target for both would be circular.
BESIDE = {
    "keras_bimp": ("layer_sensitivity",),
    "over_masking": (
        "evaluating",
        "trial_runs",
        "trial_values",
    ),
}
# Folders that are part of the target of the one above.
WITHIN = {f"{SOURCE}/exporting/sparse_kernels": f"{SOURCE}/exporting"}
# What files of a target read.
DATA = {
    "examples_study": "examples/study/grids/**",
    "reporting": f"{SOURCE}/reporting/*.jinja",
}
# Rooms that belong to the files outside of the rooms.
IN_BASE = (f"{SOURCE}/keras_internals",)
# Import names that differ from the name of the distribution.
DISTRIBUTIONS = {
    "absl": "absl-py",
    "material": "mkdocs-material",
    "sklearn": "scikit-learn",
    "tensorflow_serving": "tensorflow-serving-api",
    "yaml": "pyyaml",
}
# Only in the environment that tfmot_peer/make_environment.py makes.
ELSEWHERE = {"tensorflow_model_optimization", "tf_keras"}
HEAD = '''\
"""A target for each folder: `tests/build_files.py` writes this file."""

load("@rules_python//python:py_library.bzl", "py_library")
load("@rules_python//python:py_test.bzl", "py_test")

package(default_visibility = ["//visibility:public"])
'''
TESTS = """
# A test for each file; what they import, together.
[
    py_test(
        name = path[len("tests/"):-len(".py")],
        timeout = "eternal",
        srcs = [path] + glob(
            ["tests/*.py"],
            exclude = ["tests/*_test.py"],
        ),
        args = [path],
        data = glob(
            ["*", "docs/**", "examples/**", "tests/**"],
            exclude = ["**/*.pyc"],
        ),
        imports = ["tests"],
        main = "tests/run_pytest.py",
        deps = [
{deps}
        ],
    )
    for path in glob(["tests/*_test.py"])
]
"""


@functools.cache
def sources() -> dict[str, None]:
    """Returns all Python files of the three folders, as paths, in order."""
    found = (path for top in FOLDERS for path in (ROOT / top).rglob("*.py"))
    return dict.fromkeys(
        sorted(path.relative_to(ROOT).as_posix() for path in found)
    )


@functools.cache
def imports(source: str) -> frozenset[tuple[str, int, bool]]:
    """Returns the imports of a file.

    Returns:
        Tuples (path of a local file or name of a package, line, whether
        it is imported when the file is imported).
    """
    tree = ast.parse((ROOT / source).read_text("utf-8"))
    found = set()
    for node, at_once in _statements(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*source.split("/")[: -node.level]] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            names = [(module, alias.name) for alias in node.names]
        else:
            continue
        for module, name in names:
            target = _file(f"{module}.{name}", source) or _file(module, source)
            target = target or module.partition(".")[0]
            found.add((target, node.lineno, at_once))
    return frozenset(found)


def _statements(node: ast.AST, at_once: bool = True) -> Iterator:
    """Yields all statements, each with whether it is outside of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield child, at_once
            yield from _statements(child, at_once and not function)


def _file(module: str, importer: str) -> str | None:
    """Returns the path of a module of this repository."""
    parts = module.strip(".").replace(".", "/")
    folder = importer.rpartition("/")[0]
    # A script's folder comes first; the package uses full names.
    places = () if importer.startswith("keras_bimp/") else (folder, *SCRIPTS)
    for place in ("", *places):
        start = f"{place}/" if place else ""
        for path in (f"{start}{parts}.py", f"{start}{parts}/__init__.py"):
            if path in sources():
                return path
    return None


def local_imports(source: str) -> set[str]:
    """Returns the files of this repository that a file imports."""
    return {path for path, _, _ in imports(source) if path in sources()}


def distribution(package: str) -> str:
    """Returns the distribution of a package."""
    return DISTRIBUTIONS.get(package, package.replace("_", "-"))


def installed(source: str, at_once: bool = False) -> set[str]:
    """Returns the distributions that a file imports.

    Args:
        source: Path of the file.
        at_once: Whether to ignore imports in functions.
    """
    return {
        distribution(package)
        for package, _, top in imports(source)
        if top or not at_once
        if package not in sources()
        if package not in sys.stdlib_module_names | ELSEWHERE
    }


def target(source: str) -> str:
    """Returns the name of the target that a file belongs to."""
    folder, _, file = source.removesuffix(".py").rpartition("/")
    if folder == SOURCE:
        return next((k for k, v in BESIDE.items() if file in v), "base")
    folder = WITHIN.get(folder, folder)
    if folder in IN_BASE:
        return "base"
    return folder.removeprefix(f"{SOURCE}/").replace("/", "_")


def targets() -> dict[str, list[str]]:
    """Returns the files of each target."""
    found = collections.defaultdict(list)
    for source in sources():
        found[target(source)].append(source)
    return dict(sorted(found.items()))


def dependencies(name: str) -> list[str]:
    """Returns the labels of a target's imports."""
    files = targets()[name]
    here = {target(path) for file in files for path in local_imports(file)}
    there = {package for file in files for package in installed(file)}
    return [
        *(f":{other}" for other in sorted(here - {name})),
        *(f"@pypi//{re.sub('[-.]', '_', other)}" for other in sorted(there)),
    ]


def _list(items: list[str], indent: str) -> str:
    """Formats a list like buildifier."""
    if len(items) == 1:
        return f'["{items[0]}"]'
    lines = "".join(f'{indent}    "{item}",\n' for item in items)
    return f"[\n{lines}{indent}]"


def _sources(name: str) -> str:
    """Returns the `srcs` of a target, as patterns that cover new files."""
    folder = targets()[name][0].rpartition("/")[0]
    if name in BESIDE:
        beside = [f"{SOURCE}/{file}.py" for file in BESIDE[name]]
        if name != "keras_bimp":
            return _list(beside, "    ")
        return f'glob(["keras_bimp/*.py"]) + {_list(beside, "    ")}'
    if name != "base":
        deep = "**/" if folder in WITHIN.values() else ""
        return f'glob(["{folder}/{deep}*.py"])'
    others = sorted(f"{SOURCE}/{f}.py" for v in BESIDE.values() for f in v)
    patterns = [f"{folder}/*.py" for folder in (SOURCE, *IN_BASE)]
    return (
        f"glob(\n        {_list(patterns, ' ' * 8)},\n"
        f"        exclude = {_list(others, ' ' * 8)},\n    )"
    )


def text() -> str:
    """Returns the contents of BUILD."""
    parts = [HEAD]
    for name in targets():
        deps = dependencies(name)
        if name == "tests":
            lines = "\n".join(f'            "{dep}",' for dep in deps)
            parts.append(TESTS.format(deps=lines))
            continue
        rule = [f'    name = "{name}",', f"    srcs = {_sources(name)},"]
        if name in DATA:
            rule.append(f'    data = glob(["{DATA[name]}"]),')
        if name.startswith("examples"):
            place = "/".join(name.split("_")[:2])
            rule.append(f'    imports = ["{place}"],')
        if deps:
            rule.append(f"    deps = {_list(deps, '    ')},")
        parts.append("\npy_library(\n" + "\n".join(rule) + "\n)\n")
    return "".join(parts)


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        (ROOT / "BUILD").write_text(text(), "utf-8")
    else:
        print(text(), end="")
