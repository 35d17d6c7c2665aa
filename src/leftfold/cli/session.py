"""What a command has to work with: the store, the app, and the output; and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated
from urllib.parse import unquote, urlsplit

import apsw
import typer
from msgspec import Struct

import leftfold
from leftfold.app import App
from leftfold.cli.output import Output, complain
from leftfold.cli.target import Target, load_target
from leftfold.codec import RAW, Codec, EventCodec
from leftfold.errors import InvalidInput, LeftfoldError
from leftfold.facade import EventStore
from leftfold.opening import open_as_it_is
from leftfold.query import select

PROBLEMS = 1
"""`check` found problems, or what was asked for does not exist."""
REFUSED = 2
"""Bad input, or any error of leftfold or of the system."""
INTERRUPTED = 130
"""Ctrl-C: 128 and the number of SIGINT, as shells do."""
PIPE_CLOSED = 141
"""The reader of the output has gone: 128 and the number of SIGPIPE, as shells do."""

_PANEL = "Options of every command"


class Globals(Struct, frozen=True):
    """The options that stand before or after the name of any command."""

    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="URL",
            help="The store, such as sqlite:///bank.db. Or set LEFTFOLD_STORE.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    app: Annotated[
        str | None,
        typer.Option(
            "--app",
            metavar="MODULE:ATTRIBUTE",
            help="An App or a Codec, such as bank:app. Or set LEFTFOLD_APP.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON, for machines.", rich_help_panel=_PANEL),
    ] = False

    def or_else(self, other: Globals) -> Globals:
        """These, and those of `other` where these are not given."""
        return Globals(self.store or other.store, self.app or other.app, self.json or other.json)

    def or_environment(self) -> Globals:
        """These, and those of the environment where these are not given."""
        found = Globals(os.environ.get("LEFTFOLD_STORE"), os.environ.get("LEFTFOLD_APP"))
        return self.or_else(found)


class Session:
    """One run of one command."""

    def __init__(self, options: Globals) -> None:
        self.options = options
        self.output = Output(is_json=options.json)
        self._target: Target | None = None

    @property
    def url(self) -> str:
        """The URL of the store. Raises InvalidInput where none is given."""
        if not self.options.store:
            raise InvalidInput("which store? Give --store sqlite:///bank.db, or set LEFTFOLD_STORE")
        return self.options.store

    def open(self, codec: EventCodec | App = RAW, *, may_create: bool = False) -> EventStore:
        """The store. It has to be there already, unless `may_create`."""
        return open_at(self.url, codec, may_create=may_create)

    @contextmanager
    def appending(self, *, may_create: bool = False) -> Iterator[EventStore]:
        """As `open`, to append data as bytes. Inline projections of the App that --app names are
        kept.
        """
        app = self.target.app if self.target else None
        _check_place(self.url, may_create=may_create)
        with leftfold.open(self.url, RAW if app is None else app) as store:
            yield store if app is None else EventStore(store.store)

    def open_app(self, views: str | None) -> EventStore:
        """The store with the App, and its read models in `views`; None: beside the log."""
        app = self.app
        _check_place(self.url, may_create=False)
        return open_as_it_is(self.url, app, views=views)

    @property
    def target(self) -> Target | None:
        """What --app names, or None where it is not given."""
        if self._target is None and self.options.app:
            self._target = load_target(self.options.app)
        return self._target

    @property
    def codec(self) -> Codec | None:
        """The codec of what --app names, or None where it is not given."""
        return self.target.codec if self.target else None

    @property
    def has_processes(self) -> bool:
        """Whether what --app names has processes, which have events of their own."""
        return bool(self.target and self.target.app and self.target.app.processes)

    @property
    def app(self) -> App:
        """The App that --app names. Raises InvalidInput where it is a Codec, or is not given."""
        if self.target is None:
            raise InvalidInput("which app? Give --app MODULE:ATTRIBUTE, or set LEFTFOLD_APP")
        if self.target.app is None:
            raise InvalidInput(
                f"{self.target.name} is a Codec, which has no deciders or projections"
            )
        return self.target.app


def open_at(url: str, codec: EventCodec | App = RAW, *, may_create: bool = False) -> EventStore:
    """The store that `url` names. It has to be there already, unless `may_create`."""
    _check_place(url, may_create=may_create)
    return open_as_it_is(url, codec)


def path_of(url: str) -> str | None:
    """The path in the URL of an SQLite store, None for other URLs."""
    parts = urlsplit(url, allow_fragments=False)
    return unquote(parts.path[1:]) if parts.scheme == "sqlite" and not parts.netloc else None


def _check_place(url: str, *, may_create: bool) -> None:
    if url.startswith("memory:"):
        raise InvalidInput("memory:// is empty in every command; a command needs a file")
    if may_create:
        return
    if url.startswith(("postgresql:", "postgres:")):
        _check_schema(url)
    path = path_of(url)
    if not path:
        return
    if not os.path.exists(path):
        raise InvalidInput(f"there is no store at {path}; `leftfold init` makes one")
    if os.path.isfile(path) and not os.path.getsize(path):
        raise InvalidInput(f"{path} is empty; `leftfold init` makes a store of it")


def _check_schema(url: str) -> None:
    try:
        # psycopg is optional, so nothing that needs it may be imported before it is needed.
        from leftfold.cli.postgres_schema import has_log  # noqa: PLC0415
    except ImportError:
        # Opening the store says what is missing.
        return
    place, is_there = has_log(url)
    if not is_there:
        raise InvalidInput(f"there is no store in {place}; `leftfold init` makes one")


def check_stream_exists(store: EventStore, stream: str | None) -> None:
    """End the command with PROBLEMS if the stream that was asked for has no events."""
    if stream is None:
        return
    for _ in store.read(select(stream), limit=1):
        return
    complain(f"stream {stream!r} has no events")
    raise typer.Exit(PROBLEMS)


@contextmanager
def guarded() -> Iterator[None]:
    """Turn what a command raises into a message on stderr and an exit code."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        raise typer.Exit(PIPE_CLOSED) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except LeftfoldError as error:
        complain(error)
        raise typer.Exit(REFUSED) from None
    except apsw.Error as error:
        complain(f"SQLite: {error}")
        raise typer.Exit(REFUSED) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        complain(f"{place}{error.strerror or error}")
        raise typer.Exit(REFUSED) from None


def _discard_output() -> None:
    # Python flushes once more at the end, and would complain about the closed pipe.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
