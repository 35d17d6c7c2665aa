"""leftfold: event sourcing for Python. State is a left fold over events.

Everything public is importable from here; `leftfold.testing` is the test kit, `leftfold.errors` and
`leftfold.limits` list every error and every limit.
"""

from leftfold.codec import RAW, Codec, EventType, Tag
from leftfold.errors import (
    AppendConditionFailed,
    DuplicateEvent,
    IncompatibleStore,
    InvalidEvent,
    InvalidInput,
    LeftfoldError,
    MissingExtra,
    OutcomeUnknown,
    StoreClosed,
    StoreUnavailable,
    UndecodableEvent,
    UnknownEventType,
    Unsupported,
)
from leftfold.event import Appended, Event, Metadata, RecordedEvent, new_id
from leftfold.facade import AsyncEventStore, AsyncSubscription, EventStore, Subscription
from leftfold.opening import aopen, open
from leftfold.query import ALL, NoneMatch, Query, QueryItem, StreamVersion, Version, select
from leftfold.store import Capabilities, Store
from leftfold.upcasting import Payload, Upcaster

__all__ = [
    "ALL",
    "RAW",
    "AppendConditionFailed",
    "Appended",
    "AsyncEventStore",
    "AsyncSubscription",
    "Capabilities",
    "Codec",
    "DuplicateEvent",
    "Event",
    "EventStore",
    "EventType",
    "IncompatibleStore",
    "InvalidEvent",
    "InvalidInput",
    "LeftfoldError",
    "Metadata",
    "MissingExtra",
    "NoneMatch",
    "OutcomeUnknown",
    "Payload",
    "Query",
    "QueryItem",
    "RecordedEvent",
    "Store",
    "StoreClosed",
    "StoreUnavailable",
    "StreamVersion",
    "Subscription",
    "Tag",
    "UndecodableEvent",
    "UnknownEventType",
    "Unsupported",
    "Upcaster",
    "Version",
    "aopen",
    "new_id",
    "open",
    "select",
]
