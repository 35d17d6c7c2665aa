"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leftfold
import leftfold.errors
import leftfold.testing

ROOT = Path(__file__).parents[2]
# demo.py is an example, by a link.
SOURCES = sorted(path for path in (ROOT / "src").rglob("*.py") if not path.is_symlink())
EVERYTHING = sorted(
    path
    for folder in ("src", "tests", "bench", "examples", "docs", "adr")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md") and ".venv" not in path.parts
)

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 40
NESTING_MAX = 3
PARAMETERS_MAX = 5
POSITIONAL_MAX = 2
PUBLIC_NAMES_MAX = 40
ERRORS_MAX = 20
# A command is for somebody: three words that need no names. See CONTRIBUTING.md.
SIX_PARAMETERS = {"EventStore.handle", "AsyncEventStore.handle"}
THREE_POSITIONAL = {"EventStore.handle", "AsyncEventStore.handle"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
        if isinstance(node, ast.ClassDef | Function):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def depth(node: ast.AST) -> int:
    inner = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        elif_of = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
        inner = max(inner, depth(child) + (isinstance(child, BLOCKS) and not elif_of))
    return inner


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_sizes(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= FILE_LINES_MAX
    for name, function in functions(ast.parse(source)):
        where = f"{path.name}: {name}"
        assert (function.end_lineno or 0) - function.lineno < FUNCTION_LINES_MAX, where
        assert depth(function) <= NESTING_MAX, where
        arguments = function.args
        mine = {"self", "cls"}
        positional = [
            each for each in arguments.posonlyargs + arguments.args if each.arg not in mine
        ]
        most = PARAMETERS_MAX + (name in SIX_PARAMETERS)
        assert len(positional) + len(arguments.kwonlyargs) <= most, where


def public_functions() -> Iterator[tuple[str, Any]]:
    for name in leftfold.__all__:
        public = getattr(leftfold, name)
        if inspect.isfunction(public):
            yield name, public
        elif inspect.isclass(public) and not issubclass(public, Exception):
            for method, function in inspect.getmembers(public, inspect.isfunction):
                if not method.startswith("_"):
                    yield f"{name}.{method}", function


@pytest.mark.parametrize(
    ("name", "function"), [*public_functions()], ids=lambda each: getattr(each, "__name__", each)
)
def test_public_parameters_after_two_are_keywords(name: str, function: Any) -> None:
    parameters = [
        each for each in inspect.signature(function).parameters.values() if each.name != "self"
    ]
    positional = sum(each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters)
    assert positional <= POSITIONAL_MAX + (name in THREE_POSITIONAL), name
    assert function.__doc__ or name.startswith("Store."), name


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_each_module_and_public_class_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), path
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name}"


def is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


@pytest.mark.parametrize("module", [leftfold, leftfold.testing], ids=lambda each: each.__name__)
def test_exports_are_what_is_listed(module: object) -> None:
    exported = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    listed = module.__all__  # type: ignore[attr-defined]
    assert exported - {"MissingExtra"} | ({"MissingExtra"} & set(listed)) == set(listed)
    errors = [name for name in listed if is_error(getattr(module, name))]
    assert len(listed) - len(errors) <= PUBLIC_NAMES_MAX
    assert len(errors) <= ERRORS_MAX
    assert listed == sorted(listed, key=lambda name: (not name.isupper(), name[0].islower(), name))


def test_every_error_is_exported() -> None:
    errors = {name for name, each in vars(leftfold.errors).items() if inspect.isclass(each)}
    errors = {name for name in errors if issubclass(getattr(leftfold.errors, name), Exception)}
    assert errors <= set(leftfold.__all__)


def test_only_one_file_knows_about_the_event_loop() -> None:
    knowing = [
        path.name for path in SOURCES if re.search(r"^import asyncio", path.read_text(), re.M)
    ]
    assert knowing == ["drive.py"]


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_nothing_is_left_to_do_without_an_issue(path: Path) -> None:
    left = re.findall(r"(?:TO" + r"DO|FIX" + r"ME)(?!\(#\d+\))", path.read_text())
    assert not left
