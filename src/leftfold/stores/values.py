"""What columns of read models take no matter where they are kept."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal

from leftfold.errors import InvalidInput


def real(value: float) -> float:
    """A float that compares with others. Raises InvalidInput for one that is not a number."""
    if math.isnan(value):
        raise InvalidInput("a float in a table is a number, found nan: SQL compares it otherwise")
    return value


def decimal(value: Decimal) -> Decimal:
    """A decimal that is a number. Raises InvalidInput."""
    if not value.is_finite():
        raise InvalidInput(f"a decimal in a table is a finite number, found {value}")
    return value


def moment(value: datetime) -> datetime:
    """A datetime with a time zone, in UTC. Raises InvalidInput."""
    if value.utcoffset() is None:
        raise InvalidInput(f"a datetime in a table has a time zone, found {value!r}")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(f"in UTC a datetime is in the years 1 to 9999: {value!r}") from None
