"""The SQLite store: an event log in one file, shared by threads and processes of one machine."""

from leftfold.stores.sqlite.connection import SqliteOptions
from leftfold.stores.sqlite.database import SqliteDatabase
from leftfold.stores.sqlite.store import SqliteStore

__all__ = ["SqliteDatabase", "SqliteOptions", "SqliteStore"]
