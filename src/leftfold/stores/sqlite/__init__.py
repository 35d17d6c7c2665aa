"""The SQLite store: an event log in one file, for one machine. Threads and processes may share it."""

from leftfold.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
