"""What is folded into read models, and what is delivered to the outside: plain definitions. Without
I/O.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar
from weakref import WeakKeyDictionary

from msgspec import Struct

from leftfold.errors import InvalidInput
from leftfold.event import RecordedEvent
from leftfold.fingerprint import code, digest
from leftfold.limits import SCHEMA_VERSION_MAX, check_integer
from leftfold.projection.columns import Columns
from leftfold.projection.database import Rows
from leftfold.query import ALL, Query, select

R = TypeVar("R")

NAME_CHARACTERS_MAX = 40
ATTEMPTS_LIMIT = 1000

Mode = Literal["async", "inline", "live"]
OnFailure = Literal["stop", "quarantine"]
Key = Callable[[RecordedEvent[Any]], Any]
Evolve = Callable[[R, RecordedEvent[Any]], Any]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class _Removed:
    def __repr__(self) -> str:
        return "REMOVED"

    def __reduce__(self) -> str:
        # There is one, copied or not.
        return "REMOVED"


REMOVED = _Removed()
"""What `evolve` of a projection returns when the row is no more."""


class Sql(Protocol):
    """A transaction of the read model, for SqlProjection."""

    table: str
    """What the names of its tables are, or begin with: `f"{sql.table}_lines"`."""

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        """All rows of one statement, with ? for each value. Raises InvalidInput for one that begins
        or ends a transaction, such as COMMIT or SAVEPOINT: the checkpoint is part of this one.
        """
        ...

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """One statement for each of `rows`. Raises as `execute` does."""
        ...


class _Named(Struct, frozen=True, weakref=True):
    name: str

    def fingerprint(self, codec_fingerprint: str) -> str:
        """The same for as long as the same rows come of the same events, as far as code tells.

        It is taken once: what its functions enclose may change, and their code does not.
        """
        known = _FINGERPRINTS.setdefault(self, {})
        if codec_fingerprint not in known:
            known[codec_fingerprint] = self._fingerprint(codec_fingerprint)
        return known[codec_fingerprint]

    def _fingerprint(self, codec_fingerprint: str) -> str:
        raise NotImplementedError


_FINGERPRINTS: WeakKeyDictionary[_Named, dict[str, str]] = WeakKeyDictionary()


class Projection(_Named, Generic[R], frozen=True, kw_only=True, eq=False):
    """A fold of events into a table of rows, each row the state of one key.

    - `row` is a Struct or dataclass: one row. Its fields without a default are the key, the others
      the initial state. It becomes a table with a typed column for each field.
    - `evolve(row, event)` returns the row after an event, or REMOVED. For a key without a row it
      gets `row(*key)`, and where it returns that very object there is still none (of frozen rows).
      It may be a dict of such functions by class of event; others pass by.
    - `key(event)` names the row that an event belongs to: a value, or a tuple where the key has
      several fields; a list of them for several rows; None for none. Left out, it is the name of
      the event's stream, and workers that divide a build among them decode only what is theirs.
    - `query` says which events there are to see; left out: the classes of the dict, or all events.
    - `indexes` are the fields, besides the key, by which `find` and `count` can select.

    `mode="async"` folds behind the writers, exactly once; `"inline"` in the transaction of the
    append; `"live"` in memory, whenever it is read. When `evolve` raises at `attempts_max`
    attempts, `on_failure` says whether the projection stops, or only that key.

    Raise `version` when something that `key` or `evolve` call changes what they return: then it is
    built again beside the present one, as it is when their code or the type of `row` changes.
    """

    row: type[R]
    evolve: Evolve[R] | Mapping[type, Evolve[R]]
    key: Key | None = None
    query: Query | None = None
    version: int = 1
    indexes: Sequence[str] = ()
    mode: Mode = "async"
    on_failure: OnFailure = "stop"
    attempts_max: int = 3

    def __post_init__(self) -> None:
        check_subscriber(self)
        self._check_functions()
        columns = Columns(self.row, f"row of projection {self.name!r}")
        if self.key is None and not columns.is_one_text:
            raise InvalidInput(
                f"row of projection {self.name!r}: without key=... the key is the name of a "
                "stream, so the one field without a default is a str"
            )
        for index in self._listed_indexes():
            columns.check_is_indexable(index)
        _check_choice(self.name, "mode", self.mode, ("async", "inline", "live"))

    def _listed_indexes(self) -> Sequence[str]:
        found: Any = self.indexes
        if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
            raise InvalidInput(f"indexes of {self.name!r} are a list of names, found {found!r}")
        return self.indexes

    def _check_functions(self) -> None:
        evolves: list[Any] = [self.evolve]
        if isinstance(self.evolve, Mapping):
            evolves = list(self.evolve.values())
            if not all(isinstance(each, type) for each in self.evolve) or not evolves:
                raise InvalidInput(
                    f"evolve of {self.name!r} is a function, or a dict of functions by event class"
                )
        for each in (*evolves, self.key or evolves[0]):
            if not callable(each) or inspect.iscoroutinefunction(each):
                raise InvalidInput(f"key and evolve of {self.name!r} are plain functions")

    @property
    def events(self) -> Query:
        """The events that it folds."""
        if self.query is None and isinstance(self.evolve, Mapping):
            return select(types=tuple(self.evolve))
        return ALL if self.query is None else self.query

    @property
    def columns(self) -> Columns:
        """The columns of its table."""
        return Columns(self.row, f"row of projection {self.name!r}")

    def _fingerprint(self, codec_fingerprint: str) -> str:
        evolve: Any = self.evolve
        if isinstance(evolve, Mapping):
            evolves = sorted(f"{kind.__qualname__} {code(each)}" for kind, each in evolve.items())
        else:
            evolves = [code(evolve)]
        return digest(
            f"{self.version} {self.events} {sorted(self.indexes)}",
            codec_fingerprint,
            self.columns.shape,
            code(self.key) if self.key else "",
            *evolves,
        )


class SqlProjection(_Named, frozen=True, kw_only=True, eq=False):
    """A read model of tables of your own, written with SQL of your own.

    `create(sql)` makes the tables, named `sql.table` or beginning with it; there is an SQL view of
    each without the number of the build. `apply(sql, events)` writes what a batch of events comes
    to; it and the checkpoint are one transaction. It may be called again for the same events when
    that was rolled back. Values are bound with ? on every engine.
    """

    create: Callable[[Sql], object]
    apply: Callable[[Sql, Sequence[RecordedEvent[Any]]], object]
    query: Query | None = None
    version: int = 1
    mode: Mode = "async"
    attempts_max: int = 3

    @property
    def on_failure(self) -> OnFailure:
        """It has no keys that could be set apart."""
        return "stop"

    def __post_init__(self) -> None:
        check_subscriber(self)
        _check_choice(self.name, "mode", self.mode, ("async", "inline", "live"))
        functions: list[Any] = [self.create, self.apply]
        for each in functions:
            if not callable(each) or inspect.iscoroutinefunction(each):
                raise InvalidInput(f"create and apply of {self.name!r} are plain functions")

    @property
    def events(self) -> Query:
        """The events that it applies."""
        return ALL if self.query is None else self.query

    def _fingerprint(self, codec_fingerprint: str) -> str:
        parts = (code(self.create), code(self.apply))
        return digest(f"{self.version} {self.events}", codec_fingerprint, *parts)


class Consumer(_Named, frozen=True, kw_only=True, eq=False):
    """Delivers events to a function of yours, at least once and in order.

    `handle(event)` is a plain function, or with an async store also a coroutine function. After a
    crash the events since the last checkpoint, at most `checkpoint_events` of them, come again:
    tell them by `event.id`. `start="now"` leaves out what was recorded before it first ran. When
    `handle` raises at `attempts_max` attempts, `on_failure` says whether the consumer stops, or
    only the events with the same `key(event)`.
    """

    handle: Callable[[RecordedEvent[Any]], Any]
    query: Query | None = None
    start: Literal["first", "now"] = "first"
    key: Key | None = None
    on_failure: OnFailure = "stop"
    attempts_max: int = 3
    checkpoint_events: int = 100

    mode = "async"
    version = 1

    def __post_init__(self) -> None:
        check_subscriber(self)
        _check_choice(self.name, "start", self.start, ("first", "now"))
        check_integer(f"checkpoint_events of {self.name!r}", self.checkpoint_events, 1, 10_000)
        functions: list[Any] = [self.handle, self.key or self.handle]
        if not all(map(callable, functions)):
            raise InvalidInput(f"handle and key of consumer {self.name!r} are functions")
        if inspect.iscoroutinefunction(self.key):
            raise InvalidInput(f"key of consumer {self.name!r} is a plain function")
        if self.on_failure == "quarantine" and self.key is None:
            raise InvalidInput(f"to quarantine a key, consumer {self.name!r} needs key=...")

    @property
    def events(self) -> Query:
        """The events that it delivers."""
        return ALL if self.query is None else self.query

    def _fingerprint(self, codec_fingerprint: str) -> str:
        # What was delivered is not delivered again when code changes.
        return ""


class Worker(Consumer, frozen=True, kw_only=True, eq=False):
    """A consumer of our own. Its owner also calls `tick` from time to time, with the position up to
    which all was delivered, and at once again where it returns True. Errors of `not_of_events` are
    those of no event: it tries again for as long as they last.

    `handle` and `lane` get all events that upcasters make of a stored one. Those of one lane are
    delivered in order, those of up to `lanes_max` lanes at the same time, and those of none (None)
    by themselves. What was delivered may come again, in order, when what came before it has failed.
    """

    handle: Callable[..., Any]
    tick: Callable[[int], Any]
    lane: Callable[[tuple[RecordedEvent[Any], ...]], str | None]
    lanes_max: int
    not_of_events: tuple[type[Exception], ...]


Subscriber = Projection[Any] | SqlProjection | Consumer
"""What follows the log with a checkpoint."""


def check_subscriber(each: Any) -> None:
    """Refuse, with InvalidInput, what all kinds have in common where it is wrong."""
    name = each.name
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        raise InvalidInput(
            f"the name of a projection is also that of a table: a to z, 0 to 9 and _, a letter "
            f"first, at most {NAME_CHARACTERS_MAX} characters, found {name!r}"
        )
    if "__" in name or name.startswith(("leftfold", "sqlite_", "pg_")):
        raise InvalidInput(
            f"names with __, or that begin with leftfold, sqlite_ or pg_, are taken, found {name!r}"
        )
    check_integer(f"version of {name!r}", each.version, 1, SCHEMA_VERSION_MAX)
    check_integer(f"attempts_max of {name!r}", each.attempts_max, 1, ATTEMPTS_LIMIT)
    _check_choice(name, "on_failure", each.on_failure, ("stop", "quarantine"))
    if each.query is not None and not isinstance(each.query, Query):
        raise InvalidInput(f"query of {name!r} is made with select(...), found {each.query!r}")


def _check_choice(name: str, what: str, found: object, choices: tuple[str, ...]) -> None:
    if found not in choices:
        known = ", ".join(map(repr, choices))
        raise InvalidInput(f"{what} of {name!r} is one of {known}, found {found!r}")
