"""leftfold: event sourcing for Python. State is a left fold over events.

Everything public is importable from here; `leftfold.testing` is the test kit, `leftfold.errors` and
`leftfold.limits` list every error and every limit.
"""

from leftfold.app import App
from leftfold.async_facade import AsyncEventStore
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
    ProjectionBehind,
    ProjectionFailed,
    ProjectionRefused,
    StoreClosed,
    StoreUnavailable,
    UndecodableEvent,
    UnknownEventType,
    Unsupported,
)
from leftfold.event import Appended, Event, Metadata, RecordedEvent, new_id
from leftfold.facade import EventStore
from leftfold.loading import Loaded, Step
from leftfold.opening import aopen, open
from leftfold.projection.definition import REMOVED, Consumer, Projection, Sql, SqlProjection
from leftfold.projection.views import AsyncView, View
from leftfold.query import ALL, NoneMatch, Query, QueryItem, StreamVersion, Version, select
from leftfold.store import Capabilities, Store
from leftfold.subscriptions import AsyncSubscription, Subscription
from leftfold.upcasting import Payload, Upcaster

__all__ = [
    "ALL",
    "RAW",
    "REMOVED",
    "Aggregate",
    "App",
    "AppendConditionFailed",
    "Appended",
    "AsyncEventStore",
    "AsyncSubscription",
    "AsyncView",
    "Capabilities",
    "Codec",
    "Consumer",
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
    "Projection",
    "ProjectionBehind",
    "ProjectionFailed",
    "ProjectionRefused",
    "Query",
    "QueryItem",
    "RecordedEvent",
    "Snapshots",
    "Sql",
    "SqlProjection",
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
    "View",
    "aopen",
    "new_id",
    "open",
    "select",
]
