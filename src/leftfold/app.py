"""An application as plain data: the list of everything it consists of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from leftfold.codec import EventCodec
from leftfold.decider import Decider, check_is_decider
from leftfold.errors import InvalidInput
from leftfold.process.arguments import listed
from leftfold.process.definition import ProcessManager
from leftfold.process.rows import rows_name
from leftfold.process.wire import ProcessCodec, is_own_type
from leftfold.projection.definition import Consumer, Projection, SqlProjection, Subscriber
from leftfold.query import Query, select


class App(Struct, frozen=True, kw_only=True, eq=False):
    """What a system consists of: `App(codec=codec, deciders=[account], projections=[balances])`.

    `open` takes it in place of a codec, and the command line finds deciders in it by the category
    of a stream, and projections, consumers and processes by their names. Raises InvalidInput for
    two deciders of one category, and for two projections, consumers or processes of one name.
    """

    codec: EventCodec
    deciders: Sequence[Decider[Any, Any, Any]] = ()
    projections: Sequence[Projection[Any] | SqlProjection] = ()
    consumers: Sequence[Consumer] = ()
    processes: Sequence[ProcessManager[Any]] = ()

    def __post_init__(self) -> None:
        if isinstance(self.codec, type) or not hasattr(self.codec, "resolve"):
            raise InvalidInput(f"codec of the App is a Codec(...), found {self.codec!r}")
        for each in listed("deciders of the App", self.deciders):
            check_is_decider(each)
        _check_kinds("processes", self.processes, (ProcessManager,))
        # The stream of an instance is in the category of its process.
        categories = [each.category for each in self.deciders]
        categories += [each.name for each in self.processes]
        for category in categories:
            if categories.count(category) > 1:
                raise InvalidInput(
                    f"there are two deciders or processes of category {category!r} in the App"
                )
        _check_kinds("projections", self.projections, (Projection, SqlProjection))
        _check_kinds("consumers", self.consumers, (Consumer,))
        names = [each.name for each in self.subscribers]
        names += [name for each in self.processes for name in (each.name, rows_name(each.name))]
        for name in names:
            if names.count(name) > 1:
                raise InvalidInput(f"there are two projections or consumers {name!r} in the App")
        codec = ProcessCodec(self.codec) if self.processes else self.codec
        for subscriber in self.subscribers:
            _check_classes(codec, repr(subscriber.name), *_queries(subscriber))
        for process in self.processes:
            _check_process(codec, process)
        taken = [each.name for each in getattr(self.codec, "types", ()) if is_own_type(each.name)]
        if self.processes and taken:
            raise InvalidInput(
                f"names that begin with 'process.' are those of processes, found {taken[0]!r} in "
                "the codec of the App; give it another one with EventType(cls, name=...)"
            )

    @property
    def subscribers(self) -> Sequence[Subscriber]:
        """Everything that follows the log with a checkpoint."""
        return (*self.projections, *self.consumers)

    def decider(self, category: str) -> Decider[Any, Any, Any]:
        """The decider of a category. Raises InvalidInput, which names those there are."""
        for each in (*self.deciders, *(process.decider for process in self.processes)):
            if each.category == category:
                return each
        known = ", ".join(repr(each.category) for each in self.deciders) or "none"
        raise InvalidInput(f"the App has no decider of category {category!r}, it has {known}")


def _check_kinds(what: str, found: Sequence[Any], kinds: tuple[type, ...]) -> None:
    for each in listed(f"{what} of the App", found):
        if not isinstance(each, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise InvalidInput(f"{what} of the App are of {names}, found {type(each).__name__}")


def _queries(subscriber: Subscriber) -> Iterator[Query]:
    yield subscriber.events
    if isinstance(subscriber, Projection) and isinstance(subscriber.evolve, Mapping):
        yield select(types=tuple(subscriber.evolve))


def _check_process(codec: EventCodec, process: ProcessManager[Any]) -> None:
    _check_classes(codec, f"process {process.name!r}", process.followed)
    if process.name in (each.category for each in process.followed.items):
        raise InvalidInput(
            f"the query of process {process.name!r} selects its own category, whose events come to "
            "it by themselves; leave that out"
        )


def _check_classes(codec: EventCodec, name: str, *queries: Query) -> None:
    """Refuse, with InvalidInput, classes of events that the codec does not know: nothing would ever
    come for them.
    """
    try:
        for query in queries:
            codec.resolve(query)
    except InvalidInput as error:
        raise InvalidInput(f"{name} in the App: {error}; add it to Codec(...)") from None
