"""A cache of states in the process. Loads go on from a state in it, and still look for what is new:
so it is never stale, whoever writes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import msgspec
from msgspec import Struct

from leftfold.states import isolated


class Cached(Struct, frozen=True):
    """A state, and where it stands."""

    state: Any
    version: int = 0
    position: int = 0
    seen: int = 0
    """All that matches up to this position is in the state."""
    snapshot_version: int = 0
    """Of the latest snapshot that was found or taken."""


class StateCache:
    """The states that were used last. For threads and tasks."""

    def __init__(self, states_max: int) -> None:
        self._states_max = states_max
        self._mutex = threading.RLock()  # a signal handler may come in between
        self._states: OrderedDict[tuple[int, str], tuple[Any, Cached]] = OrderedDict()

    def get(self, decider: Any, key: str) -> Cached | None:
        """A state that is the caller's own."""
        with self._mutex:
            found = self._states.get((id(decider), key))
            if found is None:
                return None
            self._states.move_to_end((id(decider), key))
        return msgspec.structs.replace(found[1], state=isolated(found[1].state))

    def put(self, decider: Any, key: str, cached: Cached) -> None:
        """Remember a state, unless a later one is known."""
        cached = msgspec.structs.replace(cached, state=isolated(cached.state))
        with self._mutex:
            found = self._states.get((id(decider), key))
            if found is not None and found[1].version > cached.version:
                return
            # The decider is kept with it, so that its id stays its own.
            self._states[id(decider), key] = decider, cached
            self._states.move_to_end((id(decider), key))
            if len(self._states) > self._states_max:
                self._states.popitem(last=False)
