"""leftfold: event sourcing for Python. State is a left fold over events.

Everything public is importable from here; `leftfold.testing` is the test kit, `leftfold.errors` and
`leftfold.limits` list every error and every limit.
"""

from leftfold.app import App
from leftfold.codec import RAW, Codec, EventType, Tag
from leftfold.command import Handled
from leftfold.decider import Aggregate, Decider, Snapshots
from leftfold.errors import (
    AppendConditionFailed,
    Contention,
    DuplicateEvent,
    EvolveFailed,
    IncompatibleStore,
    InvalidDecision,
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
from leftfold.facade import AsyncEventStore, EventStore
from leftfold.loading import Loaded, Step
from leftfold.opening import aopen, open
from leftfold.query import ALL, NoneMatch, Query, QueryItem, StreamVersion, Version, select
from leftfold.store import Capabilities, Store
from leftfold.subscriptions import AsyncSubscription, Subscription
from leftfold.upcasting import Payload, Upcaster

__all__ = [
    "ALL",
    "RAW",
    "Aggregate",
    "App",
    "AppendConditionFailed",
    "Appended",
    "AsyncEventStore",
    "AsyncSubscription",
    "Capabilities",
    "Codec",
    "Contention",
    "Decider",
    "DuplicateEvent",
    "Event",
    "EventStore",
    "EventType",
    "EvolveFailed",
    "Handled",
    "IncompatibleStore",
    "InvalidDecision",
    "InvalidEvent",
    "InvalidInput",
    "LeftfoldError",
    "Loaded",
    "Metadata",
    "MissingExtra",
    "NoneMatch",
    "OutcomeUnknown",
    "Payload",
    "Query",
    "QueryItem",
    "RecordedEvent",
    "Snapshots",
    "Step",
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
