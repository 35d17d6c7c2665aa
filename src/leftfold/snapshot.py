"""Snapshots: states kept so that loads are short. A cache, never a truth.

A snapshot names the event that it was taken after, and a load looks whether the log holds that very
event there. So a file that was restored from a backup, or swapped, makes snapshots useless and
never wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from leftfold.decider import Decider, state_encoder
from leftfold.fingerprint import code, digest, shape
from leftfold.states import is_same

KEPT_MAX = 100
"""Snapshots of one stream that are kept: the latest, and those taken last."""
DECIDERS_MAX = 1000
"""Deciders whose fingerprints are remembered."""

logger = logging.getLogger("leftfold")


class Snapshot(Struct, frozen=True):
    """A state as it is kept."""

    key: str
    """The stream, or the query, that it is the state of."""
    fingerprint: str
    """Of the state's type and of `evolve`: what makes it usable."""
    version: int
    """How many events it is the state of."""
    position: int
    """Of the last of them."""
    event_id: bytes
    recorded_us: int
    """When that event was recorded, in microseconds since 1970."""
    data: bytes


class SnapshotStore(Protocol):
    """Where snapshots are kept. It may lose any of them at any time, and never raises."""

    async def find(
        self, key: str, fingerprint: str, *, version_max: int, recorded_us_max: int
    ) -> Snapshot | None:
        """The latest one up to a version and a moment."""
        ...

    def keep(self, key: str, make: Callable[[], Snapshot | None]) -> None:
        """Store what `make` returns, soon and off the caller's path. It may call it in another
        thread, or never.
        """
        ...

    async def drop(self, snapshot: Snapshot) -> None:
        """Forget one that is of no use."""
        ...

    async def close(self) -> None:
        """Write what waits, and free everything."""
        ...


class Snapshotting:
    """Takes and finds the snapshots of deciders."""

    def __init__(self, store: SnapshotStore, codec_fingerprint: str) -> None:
        self._store = store
        self._codec_fingerprint = codec_fingerprint
        self._models: dict[int, tuple[Decider[Any, Any, Any], _Model]] = {}

    async def find(
        self, decider: Decider[Any, Any, Any], key: str, *, version_max: int, recorded_us_max: int
    ) -> tuple[Snapshot, Any] | None:
        """The latest usable snapshot and its state."""
        model = self._model(decider)
        found = await self._store.find(
            key, model.fingerprint, version_max=version_max, recorded_us_max=recorded_us_max
        )
        if found is None:
            return None
        try:
            return found, model.decoder.decode(found.data)
        except (msgspec.MsgspecError, ValueError) as error:
            logger.warning("snapshot of %s at version %s: %s", key, found.version, error)
            return None

    async def drop(self, snapshot: Snapshot) -> None:
        """Forget one that is of no use."""
        await self._store.drop(snapshot)

    def take(self, decider: Decider[Any, Any, Any], state: Any, unfilled: Snapshot) -> None:
        """Keep `state`, soon. `unfilled` says of what it is; nobody may change `state` any more."""
        model = self._model(decider)
        self._store.keep(unfilled.key, lambda: model.fill(unfilled, state))

    def _model(self, decider: Decider[Any, Any, Any]) -> _Model:
        # The decider is kept with it, so that its id stays its own.
        known = self._models.get(id(decider))
        if known is None:
            if len(self._models) >= DECIDERS_MAX:
                self._models.clear()
            known = self._models[id(decider)] = decider, _Model(decider, self._codec_fingerprint)
        return known[1]

    async def close(self) -> None:
        await self._store.close()


class _Model:
    """How the states of one decider are kept."""

    def __init__(self, decider: Decider[Any, Any, Any], codec_fingerprint: str) -> None:
        self._state_type, self.decoder = state_encoder(decider)
        self.fingerprint = fingerprint(decider, codec_fingerprint)
        self._is_sound = True

    def fill(self, unfilled: Snapshot, state: Any) -> Snapshot | None:
        """The snapshot of `state`, if that comes back from it as it was."""
        try:
            data = msgspec.msgpack.encode(state)
            again = self.decoder.decode(data)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            self._complain(f"the state of {unfilled.key} cannot be kept: {error}")
            return None
        if not is_same(again, state):
            self._complain(
                f"the state of {unfilled.key} does not come back the same from {self._state_type}"
            )
            return None
        return msgspec.structs.replace(unfilled, fingerprint=self.fingerprint, data=data)

    def _complain(self, reason: str) -> None:
        # Once for each decider: it would be said again and again.
        if self._is_sound:
            self._is_sound = False
            logger.warning("no snapshots: %s", reason)


def fingerprint(decider: Decider[Any, Any, Any], codec_fingerprint: str = "") -> str:
    """Of everything that makes a kept state usable: the shape of its type, the code of `evolve`
    (not of what it calls) and of the upcasters, and the version given.
    """
    state_type, _ = state_encoder(decider)
    return digest(
        repr(decider.snapshots.version if decider.snapshots else 0),
        decider.category,
        codec_fingerprint,
        shape(state_type),
        msgspec.msgpack.encode(decider.initial_state, order="deterministic").hex(),
        code(decider.evolve),
        # An aggregate's `evolve` is its class's `apply`.
        code(getattr(state_type, "apply", None)),
    )
