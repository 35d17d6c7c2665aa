"""Process managers as plain definitions. Without I/O."""

from __future__ import annotations

import re
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from leftfold.decider import Decider
from leftfold.errors import InvalidInput
from leftfold.limits import QUERY_ITEMS_MAX, SCHEMA_VERSION_MAX, check_integer
from leftfold.process.arguments import check_functions, check_lists
from leftfold.process.instance import Instance
from leftfold.process.rules import Rules
from leftfold.process.stepping import Order, decider_of
from leftfold.query import Query

S = TypeVar("S")

NAME_CHARACTERS_MAX = 30
LIMIT_MAX = 1_000_000
CONCURRENCY_MAX = 64
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class ProcessManager(Rules[S], frozen=True, kw_only=True, eq=False):
    """A process over several things: events in; commands, events and timers out.

    - `query` says which events there are to see, and `key(event)` which instance one belongs to; it
      starts that where there is none. None: to no instance.
    - `evolve(state, event)` returns the state after an event, and `react(state, event)` a list of
      what to do: `Send`, `Call`, `Event`, `Timer`, `CancelTimer`, `Answered`, `Compensate`, `Done`.
      Both are pure, and get recorded events: those of the query, and the process's own, whose data
      is a `StepDone`, `StepRejected`, `NoAnswer`, `StepSkipped` or `TimerFired`.
    - `commands` are the classes of the commands that it sends, or a codec of them.
    - `calls` are functions for the outside world by name: `charge(request, idempotency_key)`.
    - `steps`, where they are given, are all the names that its steps may have.

    What was reacted to and what came of it are one append to the instance's own stream, `name-key`,
    and each command is handled once. An instance goes on by the definition of the version that it
    was started by, one of `earlier`, its `query` and `key` included; or, with `migrate(state,
    from_version)`, by this one. Only this one starts new ones. Where an event cannot be reacted to,
    that instance waits to be repaired, and no other does.

    `start="now"` leaves out what was recorded before it first ran. `reactions_max` is how often an
    instance may react within one conversation, the events of one correlation id, and
    `call_attempts_max` how often a call is made before it counts as not answered. `concurrency` is
    how many instances are worked on at a time; what concerns one of them happens in order.
    """

    def __post_init__(self) -> None:
        name: Any = self.name
        if not isinstance(name, str) or not _NAME.fullmatch(name) or "__" in name:
            raise InvalidInput(
                f"the name of a process is of a to z, 0 to 9 and _, a letter first, no __; found "
                f"{name!r}"
            )
        if len(name) > NAME_CHARACTERS_MAX or name.startswith(("leftfold", "sqlite_", "pg_")):
            raise InvalidInput(
                f"the name of a process has at most {NAME_CHARACTERS_MAX} characters and does not "
                f"begin with leftfold, sqlite_ or pg_; found {name!r}"
            )
        check_functions(self)
        check_integer(f"version of {name!r}", self.version, 1, SCHEMA_VERSION_MAX)
        check_integer(f"reactions_max of {name!r}", self.reactions_max, 1, LIMIT_MAX)
        check_integer(f"call_attempts_max of {name!r}", self.call_attempts_max, 1, LIMIT_MAX)
        check_integer(f"concurrency of {name!r}", self.concurrency, 1, CONCURRENCY_MAX)
        if self.start not in ("first", "now"):
            raise InvalidInput(f"start of {name!r} is 'first' or 'now', found {self.start!r}")
        if not isinstance(self.query, Query):
            raise InvalidInput(f"query of {name!r} is made with select(...), found {self.query!r}")
        check_lists(self)
        self._check_versions()

    def _check_versions(self) -> None:
        versions = [each.version for each in (self, *self.earlier)]
        if len(set(versions)) < len(versions) or self.version != max(versions):
            raise InvalidInput(
                f"the versions of {self.name!r} differ, and earlier ones are lower, found "
                f"{versions}"
            )
        items = len(self.followed.items)
        # One more is for the steps that it sends.
        if items >= QUERY_ITEMS_MAX:
            raise InvalidInput(
                f"the queries of {self.name!r} and its earlier versions have at most "
                f"{QUERY_ITEMS_MAX - 1} items, found {items}"
            )
        if any(each.earlier for each in self.earlier):
            raise InvalidInput(
                f"earlier definitions of {self.name!r} have none themselves; list them all in "
                "earlier=[...] of the newest"
            )
        if any(each.name != self.name for each in self.earlier):
            raise InvalidInput(f"earlier definitions of {self.name!r} have the same name")
        if self.migrate is not None and not self.earlier:
            raise InvalidInput(
                f"migrate of {self.name!r} needs the definitions of the states: earlier=[...]"
            )

    @property
    def decider(self) -> Decider[Order, Instance, Any]:
        """Its instances, for `state` and `history` by their keys: what they are, and were."""
        found = _DECIDERS.get(self)
        if found is None:
            found = _DECIDERS[self] = decider_of(self)
        return found


_DECIDERS: WeakKeyDictionary[ProcessManager[Any], Decider[Order, Instance, Any]] = (
    WeakKeyDictionary()
)
