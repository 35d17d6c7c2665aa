"""Workers are killed with SIGKILL again and again while they catch up: every read model is what a
fresh fold of the log comes to, and every delivery was made, in order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import projection_worker as bank
import pytest
from projection_worker import Options

import leftfold
from leftfold.projection import catalog, running
from leftfold.testing.faults import seeds

sys.path.append(str(Path(__file__).parents[1] / "postgres"))
from postgres_server import Server

EVENTS = 1200
KILLS = 6
OPTIONS = Options(lease_s=0.4, batch_events=20)
NAMES = ("totals", "holdings", "ledger")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql", "views on postgresql", "views on sqlite"])
def new_places(request: Any, tmp_path: Path) -> Any:
    """Makes the URLs of a new log and of new read models."""
    server = None if request.param == "sqlite" else request.getfixturevalue("server")

    def new_places(name: object) -> tuple[str, str]:
        files = [f"sqlite:///{tmp_path}/{name}{each}.db" for each in ("", "-views")]
        if server is None:
            return files[0], files[1]
        log, views = server.new_log(), server.new_log()
        if request.param == "views on postgresql":
            return files[0], views
        return (log, files[1]) if request.param == "views on sqlite" else (log, views)

    new_places.kills = KILLS if "views" not in request.param else 2  # type: ignore[attr-defined]
    return new_places


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (catalog, running):
        monkeypatch.setattr(module, "LEASE_S", OPTIONS.lease_s)


def test_whoever_is_killed_while_it_catches_up_leaves_nothing_twice(new_places: Any) -> None:
    for seed in seeds(1):
        play(Random(seed), *new_places(seed), kills=new_places.kills)


def play(random: Random, log: str, views: str, *, kills: int) -> None:
    delivered: list[int] = []
    mail = bank.mail(lambda event: delivered.append(event.position))
    app = bank.app_of(bank.totals(), bank.holdings(), bank.ledger(), mail)
    with leftfold.open(log, app, views=views) as es:
        bank.append_random(es, random, EVENTS)
        for _ in range(kills):
            several = [OPTIONS] * random.choice([1, 1, 2])
            with bank.workers(log, views, *several) as found:
                # Who owns the consumer is not known; the others are killed just as well.
                lines = random.randrange(1, EVENTS // kills)
                _owner(es, found).read(lines, last=_last(es))
                for each in sorted(found, key=lambda _: random.random()):
                    delivered += each.kill()
            # Somebody appends while nobody is there.
            bank.append_random(es, random, random.randrange(1, 50))
        with es.running():
            bank.wait_for_all(es, app)
            bank.eventually(lambda: delivered[-1:] == [_last(es)], "the last delivery")
        bank.check_rows(es, *NAMES)
        bank.check_delivered(list(es.read()), delivered)


def _last(es: Any) -> int:
    return int(es.head())


def _owner(es: Any, found: list[bank.Worker]) -> bank.Worker:
    """The worker that delivers."""

    def look() -> bank.Worker | None:
        (mail,) = bank.progress_of(es, "mail")
        of_pid = [each for each in found if f":{each.pid}:" in mail.owner]
        return of_pid[0] if of_pid else None

    found_owner: bank.Worker = bank.eventually(look, "somebody owns the consumer")
    return found_owner
