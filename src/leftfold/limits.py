"""The limits of every store, and the checks that refuse what is above them before a store is
touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Any
from uuid import UUID

import msgspec

from leftfold.errors import InvalidInput
from leftfold.event import Event, Metadata
from leftfold.query import Bound, Condition, NoneMatch, Query, StreamVersion, Version

APPEND_EVENTS_MAX = 10_000
APPEND_BYTES_MAX = 64 * 1024 * 1024
CONDITIONS_MAX = 1_000
DATA_BYTES_MAX = 4 * 1024 * 1024
EXTRA_BYTES_MAX = 64 * 1024
NAME_BYTES_MAX = 255
"""Of a stream, a type, a tag, an actor, or an id in metadata, in UTF-8."""
TAGS_MAX = 32
"""Of one event, or of one query item."""
QUERY_ITEMS_MAX = 64
QUERY_TYPES_MAX = 256
PAGE_EVENTS_MAX = 10_000
POSITION_MAX = 2**63 - 1
SCHEMA_VERSION_MAX = 2**31 - 1


def check_append(events: Sequence[Event[bytes]], conditions: Sequence[Condition]) -> None:
    """Refuse, with InvalidInput, an append that no store may record."""
    if not events:
        raise InvalidInput("an append needs at least one event, found none")
    if len(events) > APPEND_EVENTS_MAX:
        raise InvalidInput(
            f"an append takes at most {APPEND_EVENTS_MAX} events, found {len(events)}; split it"
        )
    size = 0
    before: Event[Any] | None = None
    for event in events:
        size += _check_event(event, before)
        before = event
    if size > APPEND_BYTES_MAX:
        raise InvalidInput(
            f"an append takes at most {APPEND_BYTES_MAX} bytes of data, found {size}; split it"
        )
    if len(conditions) > CONDITIONS_MAX:
        raise InvalidInput(
            f"an append takes at most {CONDITIONS_MAX} conditions, found {len(conditions)}"
        )
    for condition in conditions:
        _check_condition(condition)


def _check_event(event: Event[bytes], before: Event[bytes] | None) -> int:
    if not isinstance(event, Event):
        raise InvalidInput(f"an append takes Event values, found {_short(event)}")
    # Events of one append mostly share these, and what was just checked is not checked again.
    if before is None or event.stream is not before.stream:
        check_name("stream", event.stream)
    if before is None or event.type is not before.type:
        check_name("type", event.type)
    if before is None or event.metadata is not before.metadata:
        check_metadata(event.metadata)
    if event.tags:
        _check_tags(event.tags)
    return _check_own(event)


def _check_own(event: Event[bytes]) -> int:
    data = event.data
    if type(data) is not bytes:
        raise InvalidInput(
            f"{event.type}: data is bytes in a store, found {_short(data)}; use a codec"
        )
    if len(data) > DATA_BYTES_MAX:
        raise InvalidInput(
            f"{event.type}: data takes at most {DATA_BYTES_MAX} bytes, found {len(data)}"
        )
    if type(event.id) is not UUID:
        raise InvalidInput(f"{event.type}: id is a uuid.UUID, found {_short(event.id)}")
    if event.schema_version != 1:
        check_integer("schema_version", event.schema_version, 1, SCHEMA_VERSION_MAX)
    if event.occurred_at is not None:
        check_moment("occurred_at", event.occurred_at)
    return len(data)


def check_name(what: str, name: object) -> None:
    """Refuse, with InvalidInput, a name that is no str, empty, too long, or cannot be kept as text
    everywhere.
    """
    if not isinstance(name, str):
        raise InvalidInput(f"a {what} is a str, found {_short(name)}")
    if name.isascii() and 0 < len(name) <= NAME_BYTES_MAX and "\0" not in name:
        return
    if not name:
        raise InvalidInput(
            f"a {what} is not empty" + ("; encode domain objects with a codec" * (what == "type"))
        )
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidInput(
            f"a {what} is valid Unicode, found a lone surrogate in {_short(name)}"
        ) from None
    if size > NAME_BYTES_MAX:
        raise InvalidInput(
            f"a {what} takes at most {NAME_BYTES_MAX} bytes, found {size}: {_short(name)}"
        )
    if "\0" in name:
        raise InvalidInput(f"a {what} has no NUL character, found one in {_short(name)}")


def check_moment(what: str, moment: object) -> None:
    """Refuse, with InvalidInput, what is no datetime with a time zone."""
    if not isinstance(moment, datetime):
        raise InvalidInput(f"{what} is a datetime, found {_short(moment)}")
    if moment.utcoffset() is None:
        raise InvalidInput(
            f"{what} has a time zone, found the naive {moment.isoformat()}; add tzinfo, such as UTC"
        )
    # At the very edges of the calendar the same moment in UTC does not exist.
    if not MINYEAR < moment.year < MAXYEAR:
        raise InvalidInput(f"{what} is in a year from 2 to 9998, found {moment.isoformat()}")


def _check_tags(tags: object) -> None:
    if not isinstance(tags, tuple):
        raise InvalidInput(f"tags is a tuple of str, such as ('owner:ada',), found {_short(tags)}")
    if len(tags) > TAGS_MAX:
        raise InvalidInput(f"there are at most {TAGS_MAX} tags, found {len(tags)}")
    for tag in tags:
        check_name("tag", tag)
    if len(set(tags)) != len(tags):
        raise InvalidInput(f"each tag is given once, found {tags!r}")


def check_metadata(metadata: object) -> None:
    """Refuse, with InvalidInput, what is no Metadata, or one that no store may keep."""
    if not isinstance(metadata, Metadata):
        raise InvalidInput(f"metadata is a Metadata, found {_short(metadata)}")
    for what in ("correlation_id", "causation_id", "command_id", "actor"):
        value = getattr(metadata, what)
        if value is not None:
            check_name(what, value)
    if metadata.extra != {}:
        _check_extra(metadata.extra)


def _check_extra(extra: object) -> None:
    if not isinstance(extra, dict):
        raise InvalidInput(f"metadata extra is a dict of JSON values, found {_short(extra)}")
    try:
        encoded = msgspec.json.encode(extra)
        kept = msgspec.json.decode(encoded) == extra
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise InvalidInput(f"metadata extra holds JSON values only: {error}") from None
    # What comes back must be what was given (G7), so a value that JSON would change is refused.
    if not kept:
        raise InvalidInput(
            f"metadata extra holds JSON values only, found {_short(extra)}, which JSON would change"
        )
    if len(encoded) > EXTRA_BYTES_MAX:
        raise InvalidInput(
            f"metadata extra takes at most {EXTRA_BYTES_MAX} bytes of JSON, found {len(encoded)}"
        )


def _check_condition(condition: object) -> None:
    if isinstance(condition, StreamVersion):
        check_name("stream", condition.stream)
        check_integer("an expected version", condition.version, 0, POSITION_MAX)
    elif isinstance(condition, NoneMatch):
        check_query(condition.query)
        check_integer("after", condition.after, 0, POSITION_MAX)
    else:
        raise InvalidInput(
            f"a condition is a StreamVersion or a NoneMatch, found {_short(condition)}"
        )


def check_is_query(query: object) -> Query:
    """The query itself; InvalidInput for anything else, such as the name of a stream."""
    if not isinstance(query, Query):
        raise InvalidInput(f"a query is made with select(...), found {_short(query)}")
    return query


def check_query(query: object) -> None:
    """Refuse, with InvalidInput, a query that is empty, too large or malformed."""
    query = check_is_query(query)
    if not 1 <= len(query.items) <= QUERY_ITEMS_MAX:
        raise InvalidInput(
            f"a query has 1 to {QUERY_ITEMS_MAX} items, found {len(query.items)}; ALL is everything"
        )
    for item in query.items:
        for what in ("stream", "category"):
            value = getattr(item, what)
            if value is not None:
                check_name(what, value)
        if len(item.types) > QUERY_TYPES_MAX:
            raise InvalidInput(
                f"a query item has at most {QUERY_TYPES_MAX} types, found {len(item.types)}"
            )
        for name in item.types:
            if isinstance(name, type):
                raise InvalidInput(
                    f"a store knows types by name, found the class {name.__name__}; use a codec"
                )
            check_name("type", name)
        if item.tags:
            _check_tags(item.tags)


def check_read(query: Query, after: Bound, until: Bound | None, limit: int) -> None:
    """Refuse, with InvalidInput, a read that no store may answer."""
    check_query(query)
    _check_bound("after", after, query)
    if until is not None:
        _check_bound("until", until, query)
    check_integer("limit (events a page)", limit, 1, PAGE_EVENTS_MAX)


def _check_bound(what: str, bound: Bound, query: Query) -> None:
    if isinstance(bound, Version):
        if query.single_stream is None:
            raise InvalidInput(f"{what}={bound} needs a query for one stream, found {query}")
        check_integer(what, bound.number, 0, POSITION_MAX)
    elif isinstance(bound, datetime):
        check_moment(what, bound)
    else:
        check_integer(what, bound, 0, POSITION_MAX)


def check_integer(what: str, value: object, least: int, most: int) -> None:
    """Refuse, with InvalidInput, what is no int from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidInput(f"{what} is an integer from {least} to {most}, found {_short(value)}")


def _short(value: object) -> str:
    text = repr(value)
    return (
        text
        if len(text) <= 80
        else f"{text[:60]}... ({type(value).__name__}, {len(text)} characters)"
    )
