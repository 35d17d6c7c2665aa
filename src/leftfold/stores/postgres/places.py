"""The connections of a database of read models, as many as are needed at the same time, up to a
limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

import psycopg

from leftfold.errors import StoreUnavailable
from leftfold.stores.mutex import Mutex

T = TypeVar("T")

Connection = psycopg.Connection[Any]

CONNECTIONS_MAX = 8
"""Connections of one database object; further callers wait for one."""
PLACE_TIMEOUT_S = 60.0
"""How long callers wait for one of them."""
WAIT_S = 0.01
"""How long a caller waits for one before it tries the next."""


class _Place:
    """A place for a connection, which is opened when it is first needed."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self.mutex = Mutex()
        self._connect = connect
        self._connection: Connection | None = None

    def use(self, function: Callable[[Connection], T]) -> T:
        self._let_go_of_unusable()  # an interrupt (Ctrl-C) may have left one
        try:
            if self._connection is None:
                self._connection = self._connect()
            return function(self._connection)
        finally:
            self._let_go_of_unusable()

    def _let_go_of_unusable(self) -> None:
        connection = self._connection
        if connection is not None:
            idle = psycopg.pq.TransactionStatus.IDLE
            if connection.closed or connection.info.transaction_status != idle:
                self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Places:
    """Lends connections to functions. Those that come back lost, or in the middle of something, are
    replaced.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        # Places that are never taken out, unlike connections in a queue: an interrupt loses none.
        self._places = [_Place(connect) for _ in range(CONNECTIONS_MAX)]
        self._turns = count()
        self._is_closed = False

    def call(self, function: Callable[[Connection], T]) -> T:
        """What the function returns for a connection that nobody else uses meanwhile. Raises
        StoreUnavailable.
        """
        try:
            return self._call(function)
        finally:
            if self._is_closed:
                self.close()

    def _call(self, function: Callable[[Connection], T]) -> T:
        called: tuple[T] | None = None
        for place in self._places:
            called = place.mutex.try_call(place.use, function)
            if called is not None:
                return called[0]
        deadline_s = time.monotonic() + PLACE_TIMEOUT_S
        while called is None:
            if time.monotonic() >= deadline_s:
                raise StoreUnavailable(
                    f"all {CONNECTIONS_MAX} connections for read models were in use for "
                    f"{PLACE_TIMEOUT_S} s; try again"
                )
            place = self._places[next(self._turns) % CONNECTIONS_MAX]
            called = place.mutex.try_call(place.use, function, wait_s=WAIT_S)
        return called[0]

    def close(self) -> None:
        """Close connections that are not in use. The others are closed by those who use them."""
        self._is_closed = True
        for place in self._places:
            place.mutex.try_call(place.close)
