"""The roles of the page about projections can do what it says, and no more."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import App, Codec, Projection, RecordedEvent, StoreUnavailable

sys.path.append(str(Path(__file__).parents[1] / "postgres"))
sys.path.append(str(Path(__file__).parents[1] / "crash"))
from postgres_server import Server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/projections.md").read_text()
LOG_PAGE = (ROOT / "docs/how-to/postgresql.md").read_text()


class Deposited(Struct, frozen=True):
    cents: int


class Balance(Struct, frozen=True):
    account: str
    cents: int = 0


def add(row: Balance, event: RecordedEvent[Deposited]) -> Balance:
    return replace(row, cents=row.cents + event.data.cents)


def balances(version: int) -> Projection[Balance]:
    return Projection(
        "balances",
        row=Balance,
        key=lambda event: event.stream,
        evolve={Deposited: add},
        version=version,
    )


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def statements(page: str, heading: str) -> list[str]:
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\n((?:CREATE|GRANT).*?)```", section, re.M | re.S)
    return [each.strip() for block in blocks for each in block.split(";") if each.strip()]


def test_a_runner_runs_and_others_read_what_it_makes(server: Server) -> None:
    schema = server.new_schema()
    url = f"{server.url()}?schema={schema}"
    with leftfold.open(url, Codec(Deposited)) as es:
        last = es.append_to_stream("account-1", [Deposited(7)])
    log = statements(LOG_PAGE, "Give the application no more than it needs")
    assert len(log) == 6
    views = statements(PAGE, "Roles on PostgreSQL")
    assert len(views) == 8
    for each in log + views:
        server.execute(each.replace("bank", schema))

    def url_of(role: str) -> str:
        return re.sub(r"//.*?@", f"//{role}:secret@", url)

    for version in (1, 2):
        projection = balances(version)
        app = App(codec=Codec(Deposited), projections=[projection])
        with leftfold.open(url_of("runner"), app) as es, es.running():
            es.view(projection).wait(last.token)
            with pytest.raises(StoreUnavailable, match="permission denied"):
                es.append_to_stream("account-1", [Deposited(1)])
        with leftfold.open(url_of("teller"), app) as es:
            last = es.append_to_stream("account-1", [Deposited(7)])
            assert es.view(projection).get("account-1") == Balance("account-1", 7 * version)
            assert es.view(projection).sql("SELECT cents FROM balances") == [{"cents": 7 * version}]
            with pytest.raises(StoreUnavailable, match="permission denied"):
                es.projections.drop("balances")
