"""Every public object says what a reader needs, and its examples run."""

import ast
import doctest
import functools
import importlib
import inspect
import pkgutil
import re
import textwrap

import code_blocks
import keras
import numpy as np
import public_surface
import pytest
from pages import interpret
from pages import prelude

import keras_bimp

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(
        keras_bimp.__path__, keras_bimp.__name__ + "."
    )
)
OBJECTS = dict(public_surface.objects())


def examples_of(name):
    """Returns the doctests of a module that have examples."""
    found = doctest.DocTestFinder().find(
        importlib.import_module(name),
        globs={"keras": keras, "keras_bimp": keras_bimp, "np": np},
    )
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    tests = examples_of(name)
    if tests:
        keras.backend.clear_session()  # Resets the names of layers.
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    for test in tests:
        assert runner.run(test).failed == 0


def sections(thing):
    """Title -> text of the sections of a docstring."""
    text = inspect.cleandoc(thing.__doc__ or "")
    parts = re.split(r"^([A-Z][a-z]+):\n", text, flags=re.MULTILINE)
    assert parts[0].strip()
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def programs():
    """Path -> the program that is its example, of those without prompts."""
    return {
        path: block
        for path, thing in OBJECTS.items()
        for block in code_blocks.python_blocks(
            sections(thing).get("Example", "")
        )
    }


@pytest.mark.slow  # Whole trainings.
@pytest.mark.parametrize("path", programs())
def test_programs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    interpret(monkeypatch)
    names = prelude()
    names["model"] = keras_bimp.wrap(names["build_model"]())
    names["model"].compile(
        "sgd", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    code_blocks.run(programs()[path], path, names)


def parameters(thing):
    """The names of all arguments, with the stars that they have."""
    stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}
    if made_by(thing) is None:
        return []
    return [
        stars.get(parameter.kind.name, "") + name
        for name, parameter in inspect.signature(thing).parameters.items()
        if not name.startswith("_")  # Those that only a config has.
    ]


def made_by(thing):
    """The function that is called: of a class what initializes it."""
    if not inspect.isclass(thing):
        return thing
    for base in thing.__mro__:
        if base.__module__.startswith("keras_bimp"):
            for name in ("__init__", "__new__"):
                if name in vars(base):
                    return vars(base)[name]
    return None


@functools.cache
def nodes(function):
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):  # Of a dataclass or a named tuple.
        return []
    return list(ast.walk(ast.parse(source)))


def returns(thing):
    return not inspect.isclass(thing) and any(
        isinstance(node, ast.Return) and node.value for node in nodes(thing)
    )


def raises(thing):
    """Whether it raises, or has its arguments checked."""
    return any(
        isinstance(node, ast.Raise)
        or (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", "").lstrip("_").startswith("check")
        )
        for node in nodes(made_by(thing))
    )


def missing(thing):
    """What a docstring does not say and should."""
    said = sections(thing)
    arguments = said.get("Args", "") + said.get("Attributes", "")
    described = re.findall(r"^ {4}(\*{0,2}\w+):", arguments, re.MULTILINE)
    yield from (p for p in parameters(thing) if p not in described)
    if returns(thing) and "Returns" not in said:
        yield "Returns"
    if raises(thing) and "Raises" not in said:
        yield "Raises"
    example = said.get("Example", "")
    if not re.search(r"^(>>>|```python)", example, re.MULTILINE):
        yield "Example"


@pytest.mark.parametrize("path", OBJECTS)
def test_a_docstring_says_all(path):
    assert not list(missing(OBJECTS[path]))


def test_what_is_missing_is_found():
    def double(x, *, by=2, **kwargs):
        """Doubles.

        Args:
            x: A number: by which.
        """
        if by != 2:
            raise ValueError(by)
        return 2 * x

    assert list(missing(double)) == [
        "by",
        "**kwargs",
        "Returns",
        "Raises",
        "Example",
    ]
    double.__doc__ += """
            by: 2.
            **kwargs: None.

        Returns:
            A number.

        Raises:
            ValueError: If `by` is not 2.

        Example:

        >>> double(1)
        2
        """
    assert not list(missing(double))
