"""The PostgreSQL store: an event log in a schema of a database, shared by any number of
processes.
"""

from leftfold.stores.postgres.database import PostgresDatabase
from leftfold.stores.postgres.options import PostgresOptions
from leftfold.stores.postgres.store import PostgresStore

__all__ = ["PostgresDatabase", "PostgresOptions", "PostgresStore"]
