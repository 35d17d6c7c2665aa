"""The command line: `leftfold` on the shell calls `main`. Typer and Rich are the extra `cli`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from leftfold.errors import MissingExtra

__all__ = ["main"]


def main() -> None:
    """Run the command that the shell's arguments name, and exit with its code."""
    if find_spec("typer") is None or find_spec("rich") is None:
        print(f"leftfold: {MissingExtra('cli', 'the command line')}", file=sys.stderr)
        sys.exit(2)
    # Both are optional, so nothing that needs them may be imported before they are looked for.
    from leftfold.cli.program import program

    program(prog_name="leftfold")
