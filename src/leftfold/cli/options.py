"""Commands as functions of values: the fields of a Struct become the options of a command.

A Typer command takes one parameter for each option, and ours have up to twenty. Here each command
takes a session and one value with all of its options, and commands share options by inheriting
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import Parameter, Signature
from typing import Annotated, Any, get_type_hints

import msgspec
import typer
from msgspec import Struct

from leftfold.cli.session import Globals, Session, guarded
from leftfold.cli.times import number_or_moment
from leftfold.event import RecordedEvent
from leftfold.facade import EventStore
from leftfold.query import Query, select


class Selection(Struct, frozen=True, kw_only=True):
    """Which events are meant."""

    stream: Annotated[
        str | None, typer.Option("--stream", metavar="NAME", help="Events of one stream.")
    ] = None
    category: Annotated[
        str | None,
        typer.Option(
            "--category",
            metavar="NAME",
            help="Events of one category: what streams have before the first dash.",
        ),
    ] = None
    type: Annotated[
        list[str],
        typer.Option("--type", metavar="NAME", help="Events of this type. Again: or of that one."),
    ] = []
    tag: Annotated[
        list[str],
        typer.Option("--tag", metavar="TAG", help="Events with this tag. Again: and with that."),
    ] = []

    @property
    def query(self) -> Query:
        """The selection as a query. Raises InvalidInput."""
        return select(self.stream, category=self.category, types=self.type, tags=self.tag)


class Span(Selection, frozen=True, kw_only=True):
    """Which events are meant, and how far."""

    after: Annotated[
        str,
        typer.Option(
            "--after",
            metavar="POSITION|TIME",
            help="Only events after this position, or recorded after this moment.",
        ),
    ] = "0"
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="POSITION|TIME",
            help="Only events up to and with this position, or recorded by this moment.",
        ),
    ] = None
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="At most so many events.")
    ] = None
    backwards: Annotated[bool, typer.Option("--backwards", help="The last event first.")] = False

    def read(self, store: EventStore) -> Iterator[RecordedEvent[Any]]:
        """The events that are meant. Raises InvalidInput, and what reading raises."""
        return store.read(
            self.query,
            after=number_or_moment("--after", self.after),
            until=None if self.until is None else number_or_moment("--until", self.until),
            limit=self.limit,
            backwards=self.backwards,
        )


def command(function: Callable[..., int | None]) -> Callable[..., None]:
    """`function(session, options)`, or `function(session)`, as Typer wants it: one parameter for
    each option.

    The function returns its exit code; None is 0. What it raises becomes a message and a code.
    """
    kind = get_type_hints(function).get("options")

    def run(context: typer.Context, **given: Any) -> None:
        names = Globals.__struct_fields__
        here = Globals(**{name: given.pop(name) for name in names})
        with guarded():
            session = Session(here.or_else(context.obj or Globals()).or_environment())
            code = function(session, kind(**given)) if kind else function(session)
        raise typer.Exit(code or 0)

    context = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    own = _parameters(kind) if kind else ()
    parameters = [context, *own, *_parameters(Globals)]
    # Typer reads the parameters from here.
    vars(run)["__signature__"] = Signature(parameters)
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__doc__ = function.__doc__
    return run


def _parameters(options: type[Struct]) -> Iterator[Parameter]:
    hints = get_type_hints(options, include_extras=True)
    for field in msgspec.structs.fields(options):
        default: Any = field.default
        if field.required:
            default = Parameter.empty
        elif default is msgspec.NODEFAULT:
            default = field.default_factory()
        yield Parameter(
            field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
        )
