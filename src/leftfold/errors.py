"""Every error that leftfold raises: one class per thing a caller can do about it.

Facts are fields; the message names what was expected, what was found and where. Anything may import
this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from leftfold.query import Condition


class LeftfoldError(Exception):
    """The base of all errors below."""


class InvalidInput(LeftfoldError, ValueError):
    """A value was refused before anything happened. Mend the value."""


class InvalidEvent(InvalidInput):
    """A domain object does not fit its event class, so it was not appended.

    `event` is the type name, `path` the place inside it (`$.amount`), `reason` what was expected
    and found.
    """

    def __init__(self, event: str, path: str, reason: str) -> None:
        super().__init__(f"{event} at {path}: {reason}; nothing was appended")
        self.event, self.path, self.reason = event, path, reason


class AppendConditionFailed(LeftfoldError):
    """A condition of the append does not hold, so nothing was recorded. Read what is new, decide
    again.

    `found` is the version the stream is at (`StreamVersion`), or the position of the first event
    that matches (`NoneMatch`).
    """

    def __init__(self, condition: Condition, found: int) -> None:
        super().__init__(condition.failure(found))
        self.condition, self.found = condition, found


class DuplicateEvent(LeftfoldError):
    """Some, but not all, event ids of an append are recorded already: it is neither new nor a
    repeat.
    """

    def __init__(self, known: tuple[UUID, ...], unknown: tuple[UUID, ...]) -> None:
        super().__init__(
            f"{len(known)} of {len(known) + len(unknown)} event ids are recorded already, "
            f"the first is {known[0]}; "
            "repeat an append with all of its events, or give new events new ids"
        )
        self.known, self.unknown = known, unknown


class OutcomeUnknown(LeftfoldError):
    """The append may or may not be recorded. Repeat it with the same event ids: it is recorded once
    at most.
    """

    def __init__(self, event_ids: tuple[UUID, ...], reason: str) -> None:
        super().__init__(
            f"cannot tell whether {len(event_ids)} event(s), the first {event_ids[0]}, "
            f"are recorded: {reason}; repeat the append with the same event ids"
        )
        self.event_ids, self.reason = event_ids, reason


class StoreUnavailable(LeftfoldError):
    """The store cannot serve now (locked, full, unreadable, read-only). Nothing was recorded. Try
    again later.
    """


class StoreClosed(LeftfoldError):
    """The store was closed, or belongs to the process that forked this one."""


class IncompatibleStore(LeftfoldError):
    """What the URL names is not a leftfold store, or one that this release cannot read."""


class Unsupported(LeftfoldError):
    """The store's `capabilities` say that it cannot do this."""


class MissingExtra(LeftfoldError, ImportError):
    """An optional dependency is not installed. `extra` names what to install: `leftfold[extra]`."""

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'leftfold[{extra}]'")
        self.extra = extra


class UndecodableEvent(LeftfoldError):
    """A recorded event cannot be turned into a domain object. It stays in the log, unharmed.

    `position`, `stream`, `version`, `type` and `schema_version` say which event; `reason` says why.
    """

    def __init__(self, recorded: tuple[int, str, int, str, int], reason: str) -> None:
        self.position, self.stream, self.version, self.type, self.schema_version = recorded
        self.reason = reason
        super().__init__(
            f"{self.type!r} (schema version {self.schema_version}) at position {self.position}, "
            f"version {self.version} of stream {self.stream!r}: {reason}"
        )


class UnknownEventType(UndecodableEvent):
    """The codec has no class for the stored type and schema version. Register one, or pass the
    event through.
    """


class EvolveFailed(LeftfoldError):
    """`evolve` cannot take a recorded event. The event stays in the log, unharmed: mend `evolve`.

    `decider` is the category; `position`, `stream`, `version` and `type` say which event; `reason`
    says why. What `evolve` raised is the cause.
    """

    def __init__(self, decider: str, recorded: tuple[int, str, int, str], reason: str) -> None:
        self.decider, self.reason = decider, reason
        self.position, self.stream, self.version, self.type = recorded
        super().__init__(
            f"evolve of decider {decider!r} cannot take {self.type!r} at position {self.position}, "
            f"version {self.version} of stream {self.stream!r}: {reason}"
        )


class InvalidDecision(LeftfoldError):
    """`decide` returned what is no list of events, or what `evolve` cannot take, or it changed the
    state. Nothing was recorded: mend the decider.

    `decider` is the category, `command` the class of the command, `reason` what was found.
    """

    def __init__(self, decider: str, command: str, reason: str) -> None:
        super().__init__(
            f"decide of decider {decider!r} on {command}: {reason}; nothing was recorded"
        )
        self.decider, self.command, self.reason = decider, command, reason


class Contention(LeftfoldError):
    """A command met a conflict at each of its `attempts`. Nothing was recorded: try again later.

    `conflict` is the last one.
    """

    def __init__(self, decider: str, attempts: int, conflict: AppendConditionFailed) -> None:
        super().__init__(
            f"a command of decider {decider!r} was overtaken {attempts} times, "
            f"at last because {conflict}; nothing was recorded, try again later"
        )
        self.decider, self.attempts, self.conflict = decider, attempts, conflict


class ProjectionFailed(LeftfoldError):
    """A projection cannot take an event. The event stays in the log, unharmed: mend the projection.

    `projection` is its name; `position`, `stream`, `version` and `type` say which event; `key`, as
    JSON, which row, and is empty where that is not known; `reason` says why. What was raised is the
    cause. Of an inline projection: nothing was recorded.
    """

    def __init__(
        self, projection: str, recorded: tuple[int, str, int, str], reason: str, *, key: str = ""
    ) -> None:
        self.projection, self.reason, self.key = projection, reason, key
        self.position, self.stream, self.version, self.type = recorded
        at_key = f", key {key}" if key else ""
        super().__init__(
            f"projection {projection!r} cannot take {self.type!r} at position {self.position}, "
            f"version {self.version} of stream {self.stream!r}{at_key}: {reason}"
        )


class ProjectionBehind(LeftfoldError):
    """A projection does not show yet what was asked for. What was recorded is recorded: ask again
    later.

    `projection` is its name, `position` how far it is, and `reason` says what it waits for.
    """

    def __init__(self, projection: str, position: int, reason: str) -> None:
        super().__init__(f"projection {projection!r} is at position {position}: {reason}")
        self.projection, self.position, self.reason = projection, position, reason


class ProjectionRefused(LeftfoldError):
    """What was asked of a projection cannot be done as it stands. Nothing has changed; the message
    says what to do first.
    """
