"""The type hints of what is public tell mypy what may be called, and how."""

import ast
import re

import public_surface
import pytest
from build_files import ROOT
from mypy import api

CALLS = ROOT / "tests" / "typed_calls.py"
WRONG = """
import keras_bimp
keras_bimp.callbacks("0.9")
keras_bimp.prune(None, target=0.5)
keras_bimp.Phase("dense", 0, 5, 0.0, False).end
x: str = keras_bimp.sparsity_schedules.cubic(0.5, 0.9)
"""


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """What mypy says: of the package and right calls, and of wrong ones."""
    folder = tmp_path_factory.mktemp("typing")
    wrong = folder / "wrong.py"
    wrong.write_text(WRONG)
    config = f"--config-file={ROOT / 'pyproject.toml'}"
    paths = [str(ROOT / "keras_bimp"), str(CALLS), str(wrong)]
    said, failed, _ = api.run([config, f"--cache-dir={folder}", *paths])
    assert not failed, failed
    lines = [line for line in said.splitlines() if ": error: " in line]
    return [line for line in lines if "wrong.py" not in line], [
        line for line in lines if "wrong.py" in line
    ]


def test_the_package_and_calls_of_it_are_well_typed(errors):
    assert not errors[0]


def test_wrong_calls_are_found(errors):
    found = {re.search(r"wrong.py:(\d+):", line)[1] for line in errors[1]}
    assert found == {"3", "4", "5", "6"}


def test_everything_public_is_called():
    tree = ast.parse(CALLS.read_text())
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for path, _ in public_surface.objects():
        assert path.rpartition(".")[2] in used, path


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "keras_bimp" / "py.typed").exists()
