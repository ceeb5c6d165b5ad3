"""The BUILD file says of each file what it imports, and nothing else."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
RULES = ("py_library", "py_test", "py_binary")


def targets():
    """Maps each source path in BUILD to (rule, name, deps)."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / "BUILD").read_text())):
        if isinstance(node, ast.Call) and node.func.id in RULES:
            given = {
                k.arg: k.value
                for k in node.keywords
                if k.arg in ("name", "srcs", "deps")
            }
            given = {k: ast.literal_eval(v) for k, v in given.items()}
            (source,) = given["srcs"]
            found[source] = (
                node.func.id,
                given["name"],
                set(given.get("deps", [])),
            )
    return found


def sources():
    for folder in ("keras_bimp", "examples", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT))


def module_of(source):
    return source.removesuffix(".py").replace("/", ".")


def imports(source):
    """Source paths in this repository that a file imports."""
    known = {module_of(path): path for path in sources()}
    known |= {
        module.removesuffix(".__init__"): path for module, path in known.items()
    }
    for folder in ("tests.", "examples.study.", "examples."):
        known |= {m.removeprefix(folder): p for m, p in known.items()}
    found = set()
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module
            if node.level:  # Relative to the folder of this file.
                folder = source.rpartition("/")[0].replace("/", ".")
                module = ".".join(filter(None, (folder, module)))
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                found.add(inner if inner in known else module)
    return {known[module] for module in found if module in known} - {source}


@pytest.mark.parametrize("source", list(sources()))
def test_deps_are_the_imports(source):
    every = targets()
    _, _, deps = every[source]
    names = {f":{every[path][1]}" for path in imports(source)}
    assert {dep for dep in deps if dep.startswith(":")} == names


def test_no_import_is_circular():
    done = []

    def visit(source, above):
        assert source not in above, f"circular: {[*above, source]}"
        if source not in done:
            for path in imports(source):
                visit(path, [*above, source])
            done.append(source)

    for source in sources():
        visit(source, [])
    assert len(done) == len(list(sources()))


def test_build_lists_files_that_are_there():
    assert set(targets()) == set(sources())
