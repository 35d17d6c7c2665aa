"""Acceptance tests on real data, which lies beside the project (`../shared/data`), not in it.

Its licences keep it out of the project. Where it is missing the report says so in its first lines,
and these tests are left out; in CI, where it has to be, they are collected and fail.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "postgres"))
from postgres_server import Server

DATA = Path(__file__).parents[3] / "shared/data"

if not DATA.is_dir() and os.environ.get("CI") != "true":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def new_url(server, tmp_path_factory) -> Callable[[str], str]:
    """The URL of an empty log of its own, by the name of the store."""

    def new_url(store: str) -> str:
        if store == "sqlite":
            path = tmp_path_factory.mktemp("log") / "log.db"
            return f"sqlite:///{path}?durability=may_lose_latest"
        return {"memory": lambda: "memory://", "postgresql": server.new_log}[store]()

    return new_url
