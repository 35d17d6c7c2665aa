"""The program: every command under its name, and the options that stand before it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from leftfold.cli import (
    backup,
    check,
    copy,
    demo,
    doctor,
    export,
    imports,
    log,
    mending,
    overview,
    processes,
    projections,
    rebuild,
    run,
    states,
)
from leftfold.cli.options import command
from leftfold.cli.session import Globals

COMMANDS: dict[str, Callable[..., int | None]] = {
    "init": log.init,
    "append": log.append,
    "read": log.read,
    "tail": log.tail,
    "streams": overview.streams,
    "types": overview.types,
    "stat": overview.stat,
    "check": check.check,
    "doctor": doctor.doctor,
    "state": states.state,
    "history": states.history,
    "export": export.export,
    "import": imports.import_,
    "backup": backup.backup,
    "copy": copy.copy,
    "run": run.run,
    "projections list": projections.list_,
    "projections status": projections.status,
    "projections quarantine": projections.quarantine,
    "projections rebuild": rebuild.rebuild,
    "projections compare": projections.compare,
    "projections swap": projections.swap,
    "projections rollback": projections.rollback,
    "projections retry": mending.retry,
    "projections skip": mending.skip,
    "projections drop": projections.drop,
    "processes list": processes.list_,
    "processes show": processes.show,
    "processes retry": processes.retry,
    "processes skip": processes.skip,
    "processes cancel": processes.cancel,
    "trace": processes.trace,
    "demo": demo.demo,
}
GROUPS = {
    "projections": "Look after projections and consumers: how they are, and what to do.",
    "processes": "Look after the instances of processes: how they are, and what to do.",
}


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"leftfold {version('leftfold')}")
        raise typer.Exit


def before(
    context: typer.Context,
    store: Annotated[str | None, typer.Option("--store", metavar="URL", help="The store.")] = None,
    app: Annotated[
        str | None,
        typer.Option("--app", metavar="MODULE:ATTRIBUTE", help="An App or a Codec."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Which release."),
    ] = False,
) -> None:
    """Look into an event log, and fill it.

    Every command takes --store, --app and --json, before its name or after it.
    """
    context.obj = Globals(store, app, json)


def make() -> typer.Typer:
    """The program with all of its commands."""
    program = typer.Typer(
        name="leftfold",
        no_args_is_help=True,
        # A fault of ours is better shown by Python: Rich would print the values of variables.
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.callback()(before)
    groups = {"": program}
    for name, help in GROUPS.items():
        groups[name] = typer.Typer(name=name, help=help, no_args_is_help=True)
        program.add_typer(groups[name])
    for name, function in COMMANDS.items():
        group, _, own = name.rpartition(" ")
        groups[group].command(own)(command(function))
    return program


program = make()
