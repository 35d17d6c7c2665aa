"""Events as CloudEvents 1.0: what the specification says of attributes and data holds of each."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Any

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Struct

import leftfold
from leftfold import App, Codec, Consumer, Event, InvalidInput, Metadata, RecordedEvent
from leftfold.cloudevents import CONTENT_TYPE, cloud_event, publishing
from leftfold.event import record

SOURCE = "urn:example:bank"
REQUIRED = ("id", "source", "specversion", "type")
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
# RFC 3986, appendix B, with the characters that a URI may have.
URI = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")


class MoneyDeposited(Struct, frozen=True):
    amount: Decimal
    branch: str = "Ulm"


class Measured(Struct, frozen=True):
    value: float


@dataclass(frozen=True)
class Closed:
    reason: str


@attrs.frozen
class Frozen:
    days: int


class Opened(pydantic.BaseModel):
    owner: str = pydantic.Field(alias="ownerName")


def recorded(data: Any = b"{}", **fields: Any) -> RecordedEvent[Any]:
    given: dict[str, Any] = {"stream": "account-1", "type": "Opened", **fields}
    event = Event(given.pop("stream"), b"", **given)
    moment_us = 1_774_958_400_000_000
    return msgspec.structs.replace(record(event, 7, 3, moment_us), data=data)


def is_string(text: object) -> bool:
    """Of the type system of the specification, 3.2."""
    return isinstance(text, str) and not any(
        ord(each) < 0x20
        or 0x7F <= ord(each) <= 0x9F
        or 0xD800 <= ord(each) <= 0xDFFF
        or 0xFDD0 <= ord(each) <= 0xFDEF
        or ord(each) & 0xFFFE == 0xFFFE
        for each in text
    )


def check(document: bytes) -> dict[str, Any]:
    """The CloudEvent, after what the specification and its JSON format demand."""
    found: dict[str, Any] = json.loads(document)
    for name in REQUIRED:
        assert found[name]
    assert found["specversion"] == "1.0"
    assert URI.fullmatch(found["source"])
    for name in ("time", "recordedtime"):
        assert RFC3339.fullmatch(found[name])
    assert ("data" in found) != ("data_base64" in found)
    assert re.fullmatch(r"[a-z]+/[a-z-]+", found["datacontenttype"])
    for name, value in found.items():
        if name in ("data", "data_base64"):
            continue
        assert re.fullmatch(r"[a-z0-9]{1,20}", name)
        is_integer = type(value) is int and -(2**31) <= value < 2**31
        assert is_integer or (is_string(value) and value)
    if "data_base64" in found:
        base64.b64decode(found["data_base64"], validate=True)
    return found


def test_each_attribute_is_where_the_specification_has_it() -> None:
    metadata = Metadata("order-77", "payment-5", "command-9", "teller-3", {"branch": "Ulm"})
    occurred = datetime(2026, 3, 31, 14, 0, 0, 1500, timezone(timedelta(hours=2)))
    event = recorded(
        MoneyDeposited(Decimal("7.50")),
        type="MoneyDeposited",
        tags=("owner:ada",),
        metadata=metadata,
        occurred_at=occurred,
        schema_version=2,
    )
    assert check(cloud_event(event, source=SOURCE, type_prefix="com.example.bank.")) == {
        "specversion": "1.0",
        "id": str(event.id),
        "source": SOURCE,
        "type": "com.example.bank.MoneyDeposited",
        "subject": "account-1",
        "time": "2026-03-31T12:00:00.001500Z",
        "recordedtime": "2026-03-31T12:00:00Z",
        "position": "7",
        "streamversion": "3",
        "schemaversion": 2,
        "correlationid": "order-77",
        "causationid": "payment-5",
        "datacontenttype": "application/json",
        "data": {"amount": "7.50", "branch": "Ulm"},
    }


def test_what_is_not_given_is_left_out_and_the_inside_stays_inside() -> None:
    secret = Metadata(None, None, "command-9", "teller-3", {"branch": "Ulm"})
    document = cloud_event(recorded(tags=("owner:ada",), metadata=secret), source=SOURCE)
    assert not {"correlationid", "causationid"} & check(document).keys()
    for each in (b"command-9", b"teller-3", b"Ulm", b"owner:ada"):
        assert each not in document


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (Measured(0.5), {"value": 0.5}),
        (Closed("moved"), {"reason": "moved"}),
        (Frozen(3), {"days": 3}),
        (Opened(ownerName="ada"), {"ownerName": "ada"}),
    ],
    ids=lambda each: type(each).__name__,
)
def test_data_of_every_class_is_json_as_the_codec_writes_it(data: Any, expected: Any) -> None:
    found = check(cloud_event(recorded(data), source=SOURCE))
    assert found["data"] == expected
    codec = Codec(type(data))
    assert json.loads(codec.encode(Event("a-1", data)).data) == expected


def test_bytes_are_base64() -> None:
    found = check(cloud_event(recorded(b"\x00\xff{"), source=SOURCE))
    assert base64.b64decode(found["data_base64"]) == b"\x00\xff{"
    assert found["datacontenttype"] == "application/octet-stream"


def test_the_same_event_is_the_same_document() -> None:
    event = recorded(MoneyDeposited(Decimal(1)))
    assert cloud_event(event, source=SOURCE) == cloud_event(event, source=SOURCE)


names = st.text(min_size=1, max_size=20)


@given(stream=names, type=names, id=names)
@example("a\x7f", "b", "c")
@example("a", "b\ufdd0", "c")
@example("a", "b", "c\ufffe")
@example("a\U0010ffff", "b", "c")
@example("a\ufffd", "b\U0010fffd", "\xa0")
def test_a_cloud_event_is_valid_or_refused(stream: str, type: str, id: str) -> None:
    event = recorded(stream=stream, type=type, metadata=Metadata(correlation_id=id))
    if all(map(is_string, (stream, type, id))):
        found = check(cloud_event(event, source=SOURCE))
        assert (found["subject"], found["type"], found["correlationid"]) == (stream, type, id)
    else:
        with pytest.raises(InvalidInput, match="no control characters"):
            cloud_event(event, source=SOURCE)


def test_positions_above_32_bits_are_text() -> None:
    event = msgspec.structs.replace(recorded(), position=2**63 - 1, version=2**40)
    found = check(cloud_event(event, source=SOURCE))
    assert (found["position"], found["streamversion"]) == (str(2**63 - 1), str(2**40))


def test_times_of_early_years_have_four_digits() -> None:
    found = check(cloud_event(recorded(occurred_at=datetime(2, 1, 1, tzinfo=UTC)), source=SOURCE))
    assert found["time"] == "0002-01-01T00:00:00Z"


@pytest.mark.parametrize("source", ["", " ", "a b", "urn:ü", "bank%2", "bank\n", None, b"urn:a"])
def test_a_source_that_is_no_uri_is_refused_before_anything_is_published(source: Any) -> None:
    with pytest.raises(InvalidInput, match="source is a URI"):
        publishing(print, source=source)
    with pytest.raises(InvalidInput, match="source is a URI"):
        cloud_event(recorded(), source=source)


@pytest.mark.parametrize("source", ["/bank", "1-555-123-4567", "https://example.com/b?c=%20#d"])
def test_a_source_may_be_any_uri_reference(source: str) -> None:
    assert check(cloud_event(recorded(), source=source))["source"] == source


def test_what_cannot_publish_is_refused() -> None:
    topic: Any = "kafka"
    with pytest.raises(InvalidInput, match="publish is a function"):
        publishing(topic, source=SOURCE)
    with pytest.raises(InvalidInput, match="type_prefix"):
        publishing(print, source=SOURCE, type_prefix="a\n")


def test_data_that_json_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="nan"):
        cloud_event(recorded(Measured(float("nan"))), source=SOURCE)


class Broker:
    """Takes documents. Down for the first `down` of them."""

    def __init__(self, down: int = 0) -> None:
        self.down = down
        self.taken: list[dict[str, Any]] = []

    def __call__(self, document: bytes, content_type: str) -> None:
        assert content_type == CONTENT_TYPE == "application/cloudevents+json"
        self.down -= 1
        if self.down >= 0:
            raise ConnectionError("the broker is down")
        self.taken.append(check(document))


class AsyncBroker:
    def __init__(self, down: int = 0) -> None:
        self.broker = Broker(down)

    async def __call__(self, document: bytes, content_type: str) -> None:
        await asyncio.sleep(0)
        self.broker(document, content_type)


def app(publish: Any) -> App:
    handle = publishing(publish, source=SOURCE)
    return App(codec=Codec(MoneyDeposited), consumers=[Consumer("publisher", handle=handle)])


DEPOSITS = [MoneyDeposited(Decimal(number)) for number in range(5)]


def test_a_consumer_publishes_and_tries_again() -> None:
    broker = Broker(down=2)
    with leftfold.open("memory://", app(broker)) as es:
        appended = es.append_to_stream("account-1", DEPOSITS)
        with es.running():
            wait_until(lambda: len(broker.taken) == 5)
        ids = [str(event.id) for event in es.read()]
    assert [each["id"] for each in broker.taken] == ids
    assert [int(each["position"]) for each in broker.taken] == [*range(1, appended.position + 1)]


async def plain(broker: AsyncBroker, document: bytes, content_type: str) -> None:
    await broker(document, content_type)


@pytest.mark.parametrize("shape", ["object", "partial", "method"])
def test_an_async_consumer_awaits(shape: str) -> None:
    broker = AsyncBroker(down=1)
    shapes: dict[str, Any] = {
        "object": broker,
        "partial": partial(plain, broker),
        "method": broker.__call__,
    }

    async def main() -> None:
        async with await leftfold.aopen("memory://", app(shapes[shape])) as es:
            await es.append_to_stream("account-1", DEPOSITS)
            async with es.running():
                for _ in range(1_000):
                    if len(broker.broker.taken) == 5:
                        break
                    await asyncio.sleep(0.01)

    asyncio.run(main())
    assert [each["data"]["amount"] for each in broker.broker.taken] == ["0", "1", "2", "3", "4"]


def test_a_coroutine_function_in_sync_code_is_refused() -> None:
    with (
        leftfold.open("memory://", app(AsyncBroker())) as es,
        pytest.raises(InvalidInput, match="coroutine function"),
    ):
        es.running().start()


def wait_until(is_so: Any) -> None:
    for _ in range(1_000):
        if is_so():
            return
        asyncio.run(asyncio.sleep(0.01))
    raise AssertionError("it did not happen in time")
