"""The bank that every subject keeps: commands that post to accounts, the same for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, cycle, islice
from random import Random
from uuid import UUID, uuid4

from msgspec import Struct

ACCOUNTS = 100
ACTOR = "teller-17"


class Posted(Struct, frozen=True):
    """A posting of about 120 bytes of JSON."""

    posting: str
    amount_cents: int
    currency: str
    counterparty: str
    text: str


class PostedArray(Posted, frozen=True, array_like=True):
    """A posting without the names of its fields."""


Fields = dict[str, str | int]


class Command(Struct, frozen=True):
    """What one append is made of: postings to one account, for one reason."""

    account: int
    correlation_id: str
    causation_id: str
    postings: list[Fields]


_numbers = count(1)


def _posting() -> Fields:
    number = next(_numbers)
    return {
        "posting": f"P-{number:09}",
        "amount_cents": number * 7919 % 1_000_000,
        "currency": "EUR",
        "counterparty": f"DE{number * 104_729 % 10**20:020}",
        "text": "rent for March",
    }


def commands(events: int, batch: int = 1, accounts: Sequence[int] = ()) -> Iterator[Command]:
    """Commands with `events` postings in all, `batch` each, on the accounts in turn."""
    for account in islice(cycle(accounts or range(ACCOUNTS)), events // batch):
        postings = [_posting() for _ in range(batch)]
        yield Command(account, str(uuid4()), str(uuid4()), postings)


def tags_of(account: int) -> tuple[str, str]:
    """The two tags of a posting, where there are tags."""
    return f"customer:c-{account:06}", f"branch:b-{account % 10:03}"


class LimitChanged(Posted, frozen=True):
    """The rarer event, which the boundary is about. Its payload is that of a posting."""


BOUNDARY_ACCOUNTS = 50_000
BOUNDARY_CUSTOMERS = 20_000


class BoundaryCommand(Struct, frozen=True):
    """One event with two tags: of an account, and of the customer that the account belongs to."""

    account: int
    tags: list[str]
    type: str
    correlation_id: str
    causation_id: str
    posting: Fields


def boundary_commands(events: int, random: Random, batch: int) -> Iterator[list[BoundaryCommand]]:
    """Batches of events of accounts at random; a fifth of them, at random, are changes of limit."""
    for start in range(0, events, batch):
        yield [_boundary_command(random) for _ in range(min(batch, events - start))]


def _boundary_command(random: Random) -> BoundaryCommand:
    account = random.randrange(BOUNDARY_ACCOUNTS)
    customer = account * 7919 % BOUNDARY_CUSTOMERS
    tags = [f"account:{account:06}", f"customer:{customer:06}"]
    kind = "LimitChanged" if random.random() < 0.2 else "Posted"
    ids = (str(UUID(int=random.getrandbits(128), version=4)) for _ in range(2))
    return BoundaryCommand(account, tags, kind, *ids, _posting())
