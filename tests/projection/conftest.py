"""Databases of read models: a file, a temporary database, and a schema of a PostgreSQL server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leftfold.projection.database import Database
from leftfold.stores.postgres import PostgresDatabase
from leftfold.stores.sqlite import SqliteDatabase

sys.path.append(str(Path(__file__).parents[1] / "postgres"))
sys.path.append(str(Path(__file__).parents[1] / "crash"))
from postgres_server import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(params=["file", "temporary", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_database(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., Any]]:
    """Opens the database of this test once more, or another where it is temporary."""
    opened: list[Database] = []
    server = request.getfixturevalue("server") if engine == "postgresql" else None
    schema = server.new_schema() if server else ""

    def new_database(**options: Any) -> Any:
        if server:
            new: Any = PostgresDatabase(server.url(), schema, place=f"schema {schema}", **options)
        else:
            new = SqliteDatabase(str(tmp_path / "read.db") if engine == "file" else "", **options)
        opened.append(new)
        return new

    yield new_database
    for each in opened:
        each.close()


@pytest.fixture
def database(new_database: Callable[..., Any]) -> Any:
    return new_database()


@pytest.fixture
def shared(engine: str) -> None:
    """For tests that need a database that can be opened more than once."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with `shared` are not collected for a temporary database: it is opened once."""
    items[:] = [each for each in items if not is_impossible(each)]


def is_impossible(item: pytest.Item) -> bool:
    params = getattr(getattr(item, "callspec", None), "params", {})
    return "shared" in getattr(item, "fixturenames", ()) and params.get("engine") == "temporary"
