"""What an instance of a process can be told: what came in, and what those who repair it want."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from leftfold.event import RecordedEvent


class React(Struct, frozen=True):
    """Something came in. `refused`: it was found that what was made of it cannot be recorded.
    `versions`: it is only for an instance that goes by one of these definitions; 0: for a new one.
    """

    key: str
    event: RecordedEvent[Any]
    refused: str = ""
    versions: tuple[int, ...] | None = None
    others: tuple[React, ...] = ()
    """What else upcasters made of the stored event, for the same instance."""


class Answer(Struct, frozen=True):
    """What a step came to. `refused` as for `React`."""

    step: str
    attempt: int
    outcome: Literal["done", "rejected", "failed", "unreached"]
    reason: str = ""
    refused: str = ""


class Fire(Struct, frozen=True):
    """A timer is due. `refused` as for `React`."""

    name: str
    number: int
    refused: str = ""


class Retry(Struct, frozen=True):
    """Try again what it is stuck at."""

    actor: str


class Skip(Struct, frozen=True):
    """Go on without a step, or without what it is stuck at."""

    step: str
    reason: str
    actor: str


class Cancel(Struct, frozen=True):
    """End it."""

    reason: str
    actor: str
    compensate: bool


Order = React | Answer | Fire | Retry | Skip | Cancel
