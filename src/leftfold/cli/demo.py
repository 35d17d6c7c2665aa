"""The command `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct

from leftfold import demo as bank
from leftfold.cli.session import Session
from leftfold.errors import InvalidInput


class DemoOptions(Struct, frozen=True, kw_only=True):
    """How large, and where."""

    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="An SQLite file. There already: the bank goes on."),
    ] = None
    commands: Annotated[
        int, typer.Option("--commands", min=1, metavar="N", help="How many commands to handle.")
    ] = bank.COMMANDS


def demo(session: Session, options: DemoOptions) -> None:
    """Run a bank through thousands of commands, and look at what can be asked afterwards."""
    if session.output.is_json:
        raise InvalidInput("demo is for people; leave --json out")
    bank.tour(options.file, options.commands)
