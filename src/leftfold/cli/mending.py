"""Commands for what has failed: to try it again, or to pass over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Struct

from leftfold.cli.projections import Named
from leftfold.cli.session import Session
from leftfold.errors import InvalidInput, ProjectionRefused


class Mended(Struct, frozen=True):
    """What `retry` and `skip` came to."""

    name: str
    going_on: int
    """Partitions and keys that go on."""


class Keyed(Named, frozen=True, kw_only=True):
    """Which projection, and which of its keys."""

    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="KEY", help="Only this key: as text, or JSON as `quarantine` shows it."
        ),
    ] = None

    def mended(self, mend: Callable[[Any], int]) -> Mended:
        """What `mend` comes to for the key: the text as it is, or else what it says as JSON."""
        if self.key is None:
            return Mended(self.name, mend(None))
        try:
            return Mended(self.name, mend(self.key))
        except (ProjectionRefused, InvalidInput):
            meant = _decoded(self.key)
            # As a key, None would mean all of them.
            if meant is None:
                raise
            return Mended(self.name, mend(meant))


def _decoded(key: str) -> Any:
    """The key that a JSON text means: a value or a tuple; None where it is none."""
    try:
        found = msgspec.json.decode(key)
    except ValueError:
        return None
    return tuple(found) if isinstance(found, list) else found


def retry(session: Session, options: Keyed) -> None:
    """Try again what is stopped or in quarantine."""
    with session.open_app(options.views) as store:
        retry = store.projections.retry
        session.output.document(options.mended(lambda key: retry(options.name, key=key)))


class SkipOptions(Keyed, frozen=True, kw_only=True):
    """Which event to pass over, and why."""

    position: Annotated[
        int, typer.Argument(min=1, metavar="POSITION", help="Of the event that failed.")
    ]
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded. Required.")
    ]


def skip(session: Session, options: SkipOptions) -> None:
    """Pass over an event that failed, for the keys that it failed for."""
    with session.open_app(options.views) as store:
        skip, reason = store.projections.skip, options.reason
        session.output.document(
            options.mended(lambda key: skip(options.name, options.position, reason=reason, key=key))
        )
