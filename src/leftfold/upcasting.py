"""Old stored events in today's terms. Upcasters are pure functions over plain data, run on each
read, in chains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from leftfold.errors import InvalidInput, UndecodableEvent
from leftfold.event import RecordedEvent
from leftfold.fingerprint import code, digest
from leftfold.formats import decode_plain

UPCASTS_MAX = 1000
"""Steps of one event's chain, its branches included; more means that upcasters run in a circle."""


class Payload(Struct, frozen=True):
    """Plain data on its way up: what is stored under `type` and `version`, decoded to dicts and
    lists.
    """

    type: str
    data: Any
    version: int = 1


Upcast = Callable[[dict[str, Any]], dict[str, Any] | Payload | Sequence[Payload]]


class Upcaster(Struct, frozen=True):
    """One step up from a stored type and schema version.

    `function` gets the stored data as a dict of its own and returns the data of the next version as
    a dict; or a `Payload`, to rename; or a list of them: several to split the event, none to drop
    it. Types other than `type` that it may return are declared in `to`, so that a query by class
    finds the old events too.
    """

    type: str
    version: int
    function: Upcast
    to: tuple[str, ...] = ()


class Upcasting:
    """All upcasters of a codec. `current` has the newest schema version of each type that has a
    class.
    """

    def __init__(self, upcasters: Sequence[Upcaster], current: Mapping[str, int]) -> None:
        self._steps: dict[tuple[str, int], Upcaster] = {}
        for upcaster in upcasters:
            key = (upcaster.type, upcaster.version)
            if not isinstance(upcaster.to, tuple):
                raise InvalidInput(
                    f"{_name(key)}: `to` is a tuple of type names, found {upcaster.to!r}"
                )
            if key in self._steps:
                raise InvalidInput(f"there are two upcasters from {_name(key)}")
            if upcaster.version >= current.get(upcaster.type, upcaster.version + 1):
                raise InvalidInput(
                    f"there is an upcaster from {_name(key)}, but {_name(key)} is current"
                )
            self._steps[key] = upcaster
        for type_, version in current.items():
            for older in range(1, version):
                if (type_, older) not in self._steps:
                    raise InvalidInput(
                        f"{type_!r} is at version {version}, but there is no upcaster from {older}"
                    )
        self.fingerprint = digest(
            *(f"{_name(key)} {code(self._steps[key].function)}" for key in sorted(self._steps))
        )
        """Of all upcasters: what they make of old events changes with it."""
        self._current = current
        self._becomes: dict[str, set[str]] = {}
        for step in self._steps.values():
            self._becomes.setdefault(step.type, set()).update(step.to)
        self.renames = any(self._becomes.values())
        """Whether any stored type may mean another one today."""

    def outcomes(self, type_: str) -> tuple[str, ...]:
        """The types that events stored as `type_` may mean today, and it itself first."""
        found = {type_: None}
        waiting = [type_]
        while waiting:
            new = self._becomes.get(waiting.pop(), set()) - found.keys()
            found.update(dict.fromkeys(new))
            waiting += new
        return tuple(found)

    def sources(self, type_: str) -> tuple[str, ...]:
        """The stored types that may mean `type_` today, and it itself first."""
        others = [each for each in self._becomes if each != type_ and type_ in self.outcomes(each)]
        return (type_, *others)

    def knows(self, type_: str, version: int) -> bool:
        """Whether a chain starts at a stored type and version."""
        return (type_, version) in self._steps

    def upcast(self, recorded: RecordedEvent[bytes]) -> list[Payload]:
        """What a recorded event means today. Raises UndecodableEvent."""
        facts = (
            recorded.position,
            recorded.stream,
            recorded.version,
            recorded.type,
            recorded.schema_version,
        )
        try:
            plain = decode_plain(recorded.data)
        except ValueError as error:
            raise UndecodableEvent(facts, f"the data is malformed: {error}") from error
        finished: list[Payload] = []
        waiting = [Payload(recorded.type, plain, recorded.schema_version)]
        for _ in range(UPCASTS_MAX):
            if not waiting:
                return finished
            payload = waiting.pop(0)
            step = self._steps.get((payload.type, payload.version))
            if step is None:
                finished.append(payload)
                continue
            try:
                waiting[:0] = self._step(step, payload)
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                name = _name((step.type, step.version))
                raise UndecodableEvent(facts, f"the upcaster from {name} failed: {why}") from error
        raise UndecodableEvent(facts, f"upcasting did not end after {UPCASTS_MAX} steps")

    def _step(self, step: Upcaster, payload: Payload) -> Iterator[Payload]:
        result = step.function(payload.data)
        if isinstance(result, dict):
            return iter([Payload(step.type, result, step.version + 1)])
        results = [result] if isinstance(result, Payload) else result
        if not isinstance(results, list | tuple) or not all(
            isinstance(each, Payload) for each in results
        ):
            raise TypeError(f"expected a dict, a Payload or a list of Payloads, found {result!r}")
        for each in results:
            if each.type != step.type and each.type not in step.to:
                raise TypeError(
                    f"it returned {each.type!r}; declare to=({each.type!r},) so queries find it"
                )
        return iter(results)


def _name(key: tuple[str, int]) -> str:
    return f"{key[0]!r} version {key[1]}"
