"""Runs README.md and docs/ as tests: `pytest README.md docs`.

The Python blocks of one document share a namespace and a new working directory. A `text` block
after a Python block is what that block prints; `...` stands for any text.
"""

import os
import sys
from contextlib import redirect_stdout
from doctest import ELLIPSIS, OutputChecker
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

_run = PythonEvaluator()


def _enter_directory(namespace: dict[str, Any]) -> None:
    # Classes of a block say that they are of the main module, as those of a script do.
    namespace["__name__"] = "__main__"
    namespace["_left"] = os.getcwd()
    namespace["_entered"] = TemporaryDirectory()
    os.chdir(namespace["_entered"].name)
    sys.path.insert(0, namespace["_entered"].name)


def _leave_directory(namespace: dict[str, Any]) -> None:
    sys.path.remove(namespace["_entered"].name)
    os.chdir(namespace["_left"])
    namespace["_entered"].cleanup()


def _run_block(example: Example) -> None:
    with redirect_stdout(StringIO()) as printed:
        _run(example)
    example.namespace["_printed"] = printed.getvalue()


def _compare_output(example: Example) -> str | None:
    printed = example.namespace.pop("_printed", "")
    if OutputChecker().check_output(str(example.parsed), printed, ELLIPSIS):
        return None
    return f"the block above prints\n{printed}\nbut the document says\n{example.parsed}"


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", _run_block), CodeBlockParser("text", _compare_output)],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    setup=_enter_directory,
    teardown=_leave_directory,
).pytest()
