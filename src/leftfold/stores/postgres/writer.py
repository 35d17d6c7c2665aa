"""Writing groups of appends: one statement, which is one transaction, for a whole group."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from uuid import UUID

import msgspec
import psycopg

from leftfold.drive import run_sync
from leftfold.errors import OutcomeUnknown
from leftfold.event import Appended, Event
from leftfold.limits import APPEND_BYTES_MAX, NAME_BYTES_MAX
from leftfold.stores.group import Append, Outcome
from leftfold.stores.postgres.appending import Appending
from leftfold.stores.postgres.connection import Retry, SyncLink, is_lost, translate
from leftfold.stores.postgres.inlining import Inlining
from leftfold.stores.postgres.options import PostgresOptions

IMPATIENT_S = 0.05
"""How long appends that share a call wait for others' locks, and so keep each other waiting."""
AT_ONCE_S = 0.001
CONFLICTS_MAX = 10
"""Attempts of a group that the server rolls back for the sake of another transaction."""
_ROLLED_BACK = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    # Somebody has recorded one of the ids meanwhile, in other streams: now it is known.
    psycopg.errors.UniqueViolation,
)


class MustWait(Exception):
    """An append that was not recorded, as another transaction holds what it needs. It is to be
    given to a writer that is patient.
    """


class Writer:
    """Writes on one connection; one thread at a time.

    One that is not patient keeps nobody waiting for what somebody else holds: such appends it
    gives back. One that is waits for `lock_timeout_s`.
    """

    def __init__(
        self,
        dsn: str,
        place: str,
        options: PostgresOptions,
        appending: Appending,
        *,
        is_patient: bool,
    ) -> None:
        self._is_patient = is_patient
        self._dsn = dsn
        self._place = place
        self._options = options
        self._appending = appending
        self._link: SyncLink | None = None
        self._retry = Retry(0)
        self.told = 0
        """A position up to which callers may have been told of events."""
        self.inlining: Inlining | None = None
        """What else is to be written in the transactions that append."""
        self._is_sent = False
        """Whether the group that is at work was sent."""
        self._is_in_doubt = False
        """Whether it was sent and its connection lost, so that it may be recorded, or be yet."""

    def commit(self, appends: Sequence[Append]) -> list[Outcome]:
        """Record those whose conditions hold; one outcome each, in order. Durable when this
        returns.
        """
        outcomes: list[Outcome] = []
        self._retry = Retry(self._options.reconnect_timeout_s)
        for group in _groups(appends):
            self._is_sent = self._is_in_doubt = False
            is_lone = self._is_patient and len(group) == 1
            outcomes += self._commit(group, self._at_most(math.inf if is_lone else IMPATIENT_S))
        return outcomes

    def _at_most(self, patience_s: float) -> float:
        return min(patience_s, self._options.lock_timeout_s)

    def _commit(self, group: Sequence[Append], lock_timeout_s: float) -> Sequence[Outcome]:
        conflicts = 0
        while True:
            try:
                return self._attempt(group, lock_timeout_s)
            except psycopg.Error as error:
                failure = error
            if is_lost(failure):
                # Sent again: what the lost call has recorded is known by its ids then, and as it
                # holds its locks until its end, there is no doubt that it has ended.
                self._is_in_doubt = self._is_sent
                if self._is_in_doubt:  # nobody else can find out what became of it
                    lock_timeout_s = self._options.lock_timeout_s
                if self._retry.is_over:
                    return [self._failed(append, failure) for append in group]
                time.sleep(self._retry.pause_s())
            elif isinstance(failure, _ROLLED_BACK) and conflicts < CONFLICTS_MAX:
                conflicts += 1
            elif len(group) > 1:
                # Whatever it is, it may be the fault of one of them.
                return self._commit_each(group)
            else:
                return [self._failed(group[0], failure)]

    def _commit_each(self, group: Sequence[Append]) -> list[Outcome]:
        """Each on its own; together they wait no longer for locks than one append may."""
        outcomes: list[Outcome] = []
        is_in_doubt = self._is_in_doubt
        is_patient = self._is_patient or is_in_doubt
        least_s = IMPATIENT_S if is_patient else AT_ONCE_S
        deadline_s = time.monotonic() + (self._options.lock_timeout_s if is_patient else 0)
        for append in group:
            self._is_in_doubt = is_in_doubt
            left_s = max(least_s, deadline_s - time.monotonic())
            outcomes += self._commit([append], self._at_most(left_s))
        return outcomes

    def _failed(self, append: Append, failure: psycopg.Error) -> Exception:
        if self._is_in_doubt:
            ids = tuple(event.id for event in append.events)
            return OutcomeUnknown(ids, str(translate(failure, self._place)))
        if isinstance(failure, psycopg.errors.LockNotAvailable) and not self._is_patient:
            return MustWait()
        return translate(failure, self._place, "; nothing was recorded")

    def _attempt(self, group: Sequence[Append], lock_timeout_s: float) -> list[Outcome]:
        link = self._connected()
        kinds = run_sync(self._appending.learn_kinds(link, group))
        self._is_sent = True
        if self.inlining is not None:
            outcomes, last = self.inlining.append(
                link, group, kinds=kinds, lock_timeout_s=lock_timeout_s
            )
        else:
            outcomes, last = run_sync(
                self._appending.append(link, group, kinds=kinds, lock_timeout_s=lock_timeout_s)
            )
        positions = [each.position for each in outcomes if isinstance(each, Appended)]
        self.told = max(self.told, *positions, last if len(positions) < len(group) else 0)
        return outcomes

    def _connected(self) -> SyncLink:
        if self._link is None or not self._link.is_usable:
            self.close()
            self._link = run_sync(SyncLink.open(self._dsn, self._options.prepare_threshold))
            self._appending.forget()
            self.told = 0
        return self._link

    def close(self) -> None:
        if self._link is not None:
            run_sync(self._link.close())
            self._link = None


def _groups(appends: Sequence[Append]) -> Iterator[list[Append]]:
    """The appends in groups that one statement can take: of bounded size, and where no two have an
    event id in common, for the second one is judged by what has become of the first.
    """
    group: list[Append] = []
    ids: set[UUID] = set()
    size = 0
    for append in appends:
        mine = [event.id for event in append.events]
        bytes_ = sum(map(_size, append.events))
        if group and (size + bytes_ > APPEND_BYTES_MAX or not ids.isdisjoint(mine)):
            yield group
            group, ids, size = [], set(), 0
        group.append(append)
        ids.update(mine)
        size += bytes_
    yield group


def _size(event: Event[bytes]) -> int:
    """About how much of a message an event takes."""
    metadata = event.metadata
    extra = len(msgspec.json.encode(metadata.extra)) if metadata.extra else 0
    return len(event.data) + extra + NAME_BYTES_MAX * (2 + len(event.tags))
