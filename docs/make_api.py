"""Writes docs/api.md, the reference of all public names, from the docstrings.

    python docs/make_api.py

The test of the documentation fails where that would change the page.
"""

import ast
import collections
import dataclasses
import importlib
import inspect
import pathlib
import re
import textwrap

PAGE = pathlib.Path(__file__).parent / "api.md"
INTRODUCTION = """\
# API

`docs/make_api.py` writes this page from the docstrings: edit those. What
`keras_bimp` itself has is not listed again under the module that it is from."""
# Module -> the names to list, `None` for all that are public.
MODULES = {
    "keras_bimp": None,
    "keras_bimp.schedules": None,
    "keras_bimp.sparsity": None,
    "keras_bimp.selection": None,
    "keras_bimp.masking": ("Rule", "Hard"),
    "keras_bimp.baselines": None,
    "keras_bimp.metrics": None,
    "keras_bimp.reporting": ("Report",),
    "keras_bimp.exporting": None,
    "keras_bimp.backup": None,
}
# What is public, and hides a builtin: `import *` leaves it out.
ALSO = {"keras_bimp.baselines": ["str"]}
LISTS = ("Args", "Attributes", "Raises")
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Example|Reference):(.*)")


def page() -> str:
    """The whole page."""
    seen, contents, parts = set(), [], []
    used = collections.Counter()
    for module_name in MODULES:
        contents.append(f"- {_link(module_name, used)}: ")
        found = [
            (f"{module_name}.{name}", thing)
            for name, thing in public(module_name)
            if id(thing) not in seen
        ]
        seen |= {id(thing) for _, thing in found}
        contents[-1] += ", ".join(
            _link(path, used, path.rpartition(".")[2]) for path, _ in found
        )
        module = importlib.import_module(module_name)
        parts.append(f"## {module_name}\n\n{markdown(module.__doc__)}")
        parts += [entry(path, thing) for path, thing in found]
    return "\n\n".join([INTRODUCTION, "\n".join(contents), *parts]) + "\n"


def public(module_name: str) -> list:
    """Pairs (name, object): the public functions and classes of a module."""
    module = importlib.import_module(module_name)
    names = MODULES[module_name] or getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, thing in vars(module).items()
            if getattr(thing, "__module__", None) == module_name
            and not name.startswith("_")
        ]
    names = [*names, *ALSO.get(module_name, [])]
    things = [(name, getattr(module, name)) for name in names]
    return [
        (name, thing)
        for name, thing in things
        if inspect.isclass(thing) or inspect.isfunction(thing)
    ]


def entry(path: str, thing) -> str:
    """What the page says of a function or class."""
    name = path.rpartition(".")[2]
    parts = [f"### {path}", f"```text\n{signature(name, thing)}\n```"]
    parts.append(markdown(inspect.getdoc(thing) or ""))
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            function = getattr(value, "__func__", value)
            if isinstance(value, property):
                function = value.fget
            if (
                method.startswith("_")
                or not inspect.isfunction(function)
                or not function.__doc__
            ):
                continue
            shown = f"{name}.{method}"
            if not isinstance(value, property):
                shown = signature(shown, function)
            parts.append(f"```text\n{shown}\n```")
            parts.append(markdown(inspect.getdoc(function)))
    return "\n\n".join(parts)


def signature(name: str, thing) -> str:
    """A call as the source has it, in lines of at most 80 columns."""
    if inspect.isclass(thing):
        arguments, returns = _of_class(thing), ""
    else:
        arguments, returns = _of_function(thing)
    line = f"{name}({', '.join(arguments)}){returns}"
    if len(line) <= 80:
        return line
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"{name}(\n{lines}){returns}"


def _of_class(cls):
    for base in cls.__mro__:
        if not base.__module__.startswith("keras_bimp"):
            continue
        if dataclasses.is_dataclass(base) and "__init__" in vars(base):
            return _of_dataclass(base)
        if "__init__" in vars(base):
            return _of_function(base.__init__)[0]
    return []


def _of_dataclass(cls):
    source, node = _parse(cls)
    return [
        _text(source, item)
        for item in node.body
        if isinstance(item, ast.AnnAssign)
    ]


def _of_function(function):
    source, node = _parse(function)
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults))
    pairs = zip(positional, [*defaults, *given.defaults], strict=True)
    arguments = [_argument(source, *pair) for pair in pairs]
    if positional and positional[0].arg in ("self", "cls"):
        arguments = arguments[1:]
    if given.vararg:
        arguments.append(f"*{given.vararg.arg}")
    elif given.kwonlyargs:
        arguments.append("*")
    pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    arguments += [_argument(source, *pair) for pair in pairs]
    if given.kwarg:
        arguments.append(f"**{given.kwarg.arg}")
    returns = f" -> {_text(source, node.returns)}" if node.returns else ""
    return arguments, returns


def _argument(source, argument, default):
    text = _text(source, argument)
    if default is None:
        return text
    equals = " = " if argument.annotation else "="
    return f"{text}{equals}{_text(source, default)}"


def _parse(thing):
    source = textwrap.dedent(inspect.getsource(thing))
    return source, ast.parse(source).body[0]


def _text(source, node):
    return " ".join(ast.get_source_segment(source, node).split())


def markdown(docstring: str) -> str:
    """A docstring with its sections as lists and its examples in fences."""
    out, section, fenced = [], None, False
    for line in inspect.cleandoc(docstring).splitlines():
        heading = SECTION.fullmatch(line)
        if heading and not fenced:
            section = heading[1]
            out += [f"**{section}**{heading[2]}", ""]
            continue
        if line.startswith("```"):
            fenced = not fenced
        if section in (*LISTS, "Returns") and line:
            line = line.removeprefix("    ")
        out.append(_item(line) if section in LISTS else line)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(out))
    return _fence_examples(text.strip())


def _item(line):
    """A line of a list of arguments."""
    if line.startswith(" "):
        return line[2:]
    name, colon, text = line.partition(":")
    return f"- `{name}`:{text}" if colon else line


def _fence_examples(text):
    """Puts examples with prompts into fences."""
    paragraphs = re.split(r"\n\n(?=\S)", text)
    return "\n\n".join(
        f"```pycon\n{paragraph.rstrip()}\n```"
        if paragraph.startswith(">>>")
        else paragraph
        for paragraph in paragraphs
    )


def _link(path, used, text=None):
    """A link to a heading, as GitHub names those that occur again."""
    anchor = re.sub(r"[^\w-]", "", path.lower())
    used[anchor] += 1
    again = used[anchor] - 1
    return f"[{text or path}](#{anchor}{f'-{again}' if again else ''})"


if __name__ == "__main__":
    PAGE.write_text(page())
