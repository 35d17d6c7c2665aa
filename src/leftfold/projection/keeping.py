"""What a log and its inline projections are to each other: protocols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from leftfold.event import RecordedEvent
from leftfold.projection.database import Transaction


class Keeper(Protocol):
    """Keeps the rows of inline projections up to date, in the transactions that append. Every
    method blocks.
    """

    def builds(self, tx: Transaction) -> Mapping[str, int]:
        """The build of each of its projections, by name. Raises ProjectionRefused where there is
        none of the present code.
        """
        ...

    def claim(self, tx: Transaction, until: int) -> None:
        """Say of all of its builds that they will be at position `until`, or before, when the
        transaction ends. Raises ProjectionRefused as `builds` does.
        """
        ...

    def apply(self, tx: Transaction, events: Sequence[RecordedEvent[bytes]]) -> None:
        """Apply all events that the transaction has recorded since `claim`, at least one, in order.

        Raises ProjectionFailed: then what was recorded, and written, since has to be rolled back.
        """
        ...


class InlineLog(Protocol):
    """A log whose appends keep projections up to date, with a database of read models for them. A
    transaction is one of that database.
    """

    def keep_with(self, keeper: Keeper) -> None:
        """From now on, do what the keeper does in the transaction of each append."""
        ...

    def hold(self, tx: Transaction) -> None:
        """Let nobody append until the transaction ends. Returns when those at work have ended."""
        ...

    def tail(self, tx: Transaction, after: int, limit: int) -> list[RecordedEvent[bytes]]:
        """The first `limit` events after a position, as the transaction sees them. Between `hold`
        and its end these are all.
        """
        ...

    def demanded(self, tx: Transaction) -> dict[str, int]:
        """The builds that whoever appends has to keep up to date, by name."""
        ...

    def demand(self, tx: Transaction, builds: Mapping[str, int]) -> None:
        """Refuse, from the end of the transaction on, every append that does not keep these builds
        up to date, whoever makes it. Only after `hold`.
        """
        ...


def refusal(names: Iterable[str]) -> str:
    """Why an append is refused that does not keep the projections of these names."""
    listed = ", ".join(sorted(names))
    return (
        f"every append to this log keeps its inline projections ({listed}), and this one does not, "
        "or keeps them by other code: open the store with the App that has them, or give them up "
        "with `leftfold projections drop NAME`"
    )
