"""User activity: python examples/activity.py

Many small facts, told by devices: late, in any order, and sometimes twice. When it happened and
when it was recorded are two different times. A repeated delivery is recorded once, by the ids of
its events; a repeated command is handled once, by the id of the command.
"""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated
from urllib.parse import quote
from uuid import UUID, uuid5

from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import App, Codec, Decider, Event, EventStore, Metadata, Tag, select

# ------------------------------------------------------------------------------------------------
# Events


class PageViewed(Struct, frozen=True):
    page: Annotated[str, Tag()]
    seconds: int


class BadgeEarned(Struct, frozen=True):
    badge: Annotated[str, Tag()]


UserEvent = PageViewed | BadgeEarned


# ------------------------------------------------------------------------------------------------
# State


class User(Struct, frozen=True):
    views: int = 0
    seconds: int = 0
    badges: frozenset[str] = frozenset()


def evolve(user: User, event: UserEvent) -> User:
    match event:
        case PageViewed(seconds=seconds):
            return replace(user, views=user.views + 1, seconds=user.seconds + seconds)
        case BadgeEarned(badge):
            return replace(user, badges=user.badges | {badge})


# ------------------------------------------------------------------------------------------------
# The one decision. Page views are facts from outside: nobody decides on them, they are appended.


class AwardBadge(Struct, frozen=True):
    badge: str
    views_min: int


class Rejected(Exception):
    """No badge."""


def decide(command: AwardBadge, user: User) -> list[UserEvent]:
    if command.badge in user.badges:
        raise Rejected(f"has the badge {command.badge!r} already")
    if user.views < command.views_min:
        raise Rejected(f"has viewed {user.views} pages, {command.views_min} are needed")
    return [BadgeEarned(command.badge)]


# ------------------------------------------------------------------------------------------------
# The app: a list of what there is. The events of user 7 are the stream `user-7`.

users = Decider("user", initial_state=User(), decide=decide, evolve=evolve)
codec = Codec(PageViewed, BadgeEarned)
app = App(codec=codec, deciders=[users])


# ------------------------------------------------------------------------------------------------
# What a device tells becomes events: the id is made from what identifies it there, so it is the
# same each time, and `occurred_at` is the device's time.

FIRST_DAY = datetime(2024, 3, 4, tzinfo=UTC)
DEVICES = UUID("b0a5c2de-44a8-4a53-9f0a-5b0c3a6b1f52")  # made once, kept for ever


class View(Struct, frozen=True):
    number: int
    user: str
    at: datetime
    page: str
    seconds: int


def to_event(device: str, view: View) -> Event[PageViewed]:
    return Event(
        f"user-{view.user}",
        PageViewed(view.page, view.seconds),
        id=uuid5(DEVICES, f"{device} {view.number}"),
        occurred_at=view.at,
    )


def views_of_a_device(seed: int, count: int = 1000) -> Iterator[View]:
    """Three days of views."""
    rng = random.Random(seed)
    for number in range(count):
        at = FIRST_DAY + timedelta(seconds=rng.randrange(3 * 86_400))
        page = rng.choice(["/home", "/home", "/search", "/pricing", "/help"])
        yield View(number, f"{rng.randint(1, 9)}", at, page, rng.randint(1, 300))


def deliver(es: EventStore, device: str, views: list[View]) -> None:
    """Record one delivery, in one append. Delivered again, it is the same append."""
    es.append([to_event(device, view) for view in views])


def main() -> None:
    with (
        TemporaryDirectory() as directory,
        leftfold.open(f"sqlite:///{quote(str(Path(directory) / 'activity.db'))}", app) as es,
    ):
        import_twice(es)
        ask_about_times(es)
        award_badges(es)


def import_twice(es: EventStore) -> None:
    deliveries = {f"phone-{seed}": list(views_of_a_device(seed)) for seed in range(10)}
    started = perf_counter()
    for device, views in deliveries.items():
        deliver(es, device, views)
    rate = es.head() / (perf_counter() - started)
    print(f"{es.head():,} views recorded, {rate:,.0f} in a second")
    for device, views in deliveries.items():
        deliver(es, device, views)
    print(f"delivered once more, there are {es.head():,}")
    assert es.head() == 10_000


def ask_about_times(es: EventStore) -> None:
    by_day: Counter[str] = Counter()
    for event in es.read(select(tags=["page:/pricing"])):
        by_day[f"{event.occurred_at:%d %B}"] += 1
    print(f"views of /pricing by day: {dict(sorted(by_day.items()))}")

    one_day_later = FIRST_DAY + timedelta(days=1)
    known = es.state(users, "7", at=one_day_later)  # what was recorded by then
    true = es.state(users, "7", as_of=one_day_later)  # what had happened by then
    print(f"On the first evening we knew of {known.views} views by user 7; there were {true.views}")
    assert known.views == 0 < true.views < es.state(users, "7").views

    # A phone that was offline on the first day. What we say about that day changes; what we knew
    # does not.
    before = datetime.now(UTC)
    late = View(1, "7", FIRST_DAY + timedelta(hours=9), "/help", 30)
    deliver(es, "phone-late", [late])
    corrected = es.state(users, "7", as_of=one_day_later)
    as_reported = es.state(users, "7", at=before, as_of=one_day_later)
    print(f"A late delivery: there were {corrected.views}. We had reported {as_reported.views}")
    assert corrected.views == true.views + 1
    assert as_reported == true

    print("The last things recorded of user 7:")
    for event in es.read(select("user-7"), limit=3, backwards=True):
        print(f"  {event.occurred_at:%d %B %H:%M} {event.data}")


def award_badges(es: EventStore) -> None:
    """A nightly job. It dies halfway, and is started again from the beginning."""

    def award(user: str) -> None:
        job = Metadata(command_id=f"badges of 7 March, user {user}", actor="nightly job")
        es.handle(users, user, AwardBadge("reader", views_min=500), metadata=job)

    award("7")
    for user in map(str, range(1, 10)):
        award(user)  # User 7 again: the answer is that of the first time, and no rejection.
    earned = list(es.read(select(tags=["badge:reader"])))
    print(f"{len(earned)} users have earned a badge, each one once")
    assert len(earned) == len({event.stream for event in earned}) == 9
    try:
        es.handle(users, "7", AwardBadge("reader", views_min=500))
    except Rejected as rejection:
        print(f"A new command, though: user 7 {rejection}")


if __name__ == "__main__":
    main()
