"""A PostgreSQL server for tests."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from pathlib import Path

import psycopg

SUPERVISOR = Path(__file__).with_name("postgres_supervisor.py")


class Server:
    """A server, by way of its supervisor. `programs` is where another one than PostgreSQL 18 is."""

    def __init__(self, *programs: Path) -> None:
        command = [sys.executable, str(SUPERVISOR), *map(str, programs)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = int(self._answer())
        self._numbers = count(1)

    def _answer(self) -> bytes:
        assert self._process.stdout
        answer = self._process.stdout.readline()
        assert answer, "the server does not start"
        return answer

    def _command(self, command: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(command + b"\n")
        self._process.stdin.flush()
        self._answer()

    def crash(self) -> None:
        """End it as a crash does, and start it again."""
        self.stop()
        self.start()

    def stop(self) -> None:
        self._command(b"stop")

    def start(self) -> None:
        self._command(b"start")

    def url(self, database: str = "postgres", user: str = "postgres:postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def new_schema(self) -> str:
        """A name that no other test has."""
        return f"log_{next(self._numbers)}"

    def new_log(self) -> str:
        """The URL of a log that is not there yet."""
        return f"{self.url()}?schema={self.new_schema()}"

    def execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """As the superuser. The rows, if there are any."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
