"""One PostgreSQL server for all tests here. Each test gets a schema, or a database, of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import Server

# Data of the acceptance tests: see tests/acceptance.
if not (Path(__file__).parents[3] / "shared/data").is_dir() and os.environ.get("CI") != "true":
    collect_ignore = ["test_postgres_scenarios.py"]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()
