"""Domain objects to stored events and back."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

import leftfold
from leftfold import (
    Codec,
    Event,
    EventType,
    InvalidEvent,
    InvalidInput,
    NoneMatch,
    Payload,
    Tag,
    UndecodableEvent,
    UnknownEventType,
    Upcaster,
    select,
)
from leftfold.event import RecordedEvent, record


class Color(Enum):
    RED = "red"


class Opened(Struct, frozen=True):
    owner: Annotated[str, Tag()]
    limit: Decimal = Decimal(0)


@dataclasses.dataclass(frozen=True)
class Moved:
    street: str
    on: date
    city: Annotated[str | None, Tag("town")] = None


@attrs.frozen
class Painted:
    color: Color
    rooms: Annotated[list[int], Tag("room")] = attrs.field(factory=list)


class Address(pydantic.BaseModel):
    zip: str = pydantic.Field(min_length=5)


class Billed(pydantic.BaseModel):
    account: Annotated[UUID, Tag()]
    amount: Decimal
    address: Address | None = None


OBJECTS = [
    Opened("ada", Decimal("1.50")),
    Moved("Main St", date(2024, 2, 29), "Ulm"),
    Painted(Color.RED, [2, 1]),
    Billed(account=UUID(int=7), amount=Decimal("1.10"), address=Address(zip="12345")),
]
CLASSES = [Opened, Moved, Painted, Billed]


def recorded(event: Event[bytes]) -> RecordedEvent[bytes]:
    return record(event, 7, 3, 0)


def stored(type: str, data: bytes, version: int = 1) -> RecordedEvent[bytes]:
    return recorded(Event("account-1", data, type=type, schema_version=version))


def decoded(codec: Codec, type: str, data: bytes, version: int = 1) -> list[Any]:
    return [event.data for event in codec.decode(stored(type, data, version))]


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("data", OBJECTS, ids=lambda data: type(data).__name__)
def test_objects_of_every_kind_of_class_come_back(data: Any, format: Any) -> None:
    event = Codec(*CLASSES, format=format).encode(Event("a-1", data))
    assert event.type == type(data).__name__
    # Both formats are read, whichever is written.
    for reader in (Codec(*CLASSES), Codec(*CLASSES, format="msgpack")):
        (back,) = reader.decode(recorded(event))
        assert back.data == data
        assert (back.position, back.version, back.id) == (7, 3, event.id)


def test_json_is_readable() -> None:
    event = Codec(Opened).encode(Event("a-1", Opened("ada", Decimal("1.50"))))
    assert event.data == b'{"owner":"ada","limit":"1.50"}'


def test_what_is_given_with_an_event_is_kept() -> None:
    at = datetime(2024, 1, 1, tzinfo=UTC)
    given = Event("a-1", Opened("ada"), tags=("own:1", "owner:ada"), occurred_at=at)
    encoded = Codec(EventType(Opened, name="opened", version=1)).encode(given)
    assert (encoded.id, encoded.occurred_at, encoded.stream) == (given.id, at, "a-1")
    assert (encoded.type, encoded.tags) == ("opened", ("owner:ada", "own:1"))


@pytest.mark.parametrize(
    ("data", "tags"),
    [
        (OBJECTS[0], ("owner:ada",)),
        (OBJECTS[1], ("town:Ulm",)),
        (Moved("Main St", date(2024, 2, 29)), ()),
        (OBJECTS[2], ("room:1", "room:2")),
        (Painted(Color.RED), ()),
        (OBJECTS[3], (f"account:{UUID(int=7)}",)),
    ],
)
def test_marked_fields_become_tags(data: Any, tags: tuple[str, ...]) -> None:
    assert Codec(*CLASSES).encode(Event("a-1", data)).tags == tags


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (Opened("ada", "lots"), "$.limit"),
        (Opened(None), "$.owner"),
        (Moved("x", "tomorrow"), "$.on"),
        (Painted(Color.RED, [1, "two"]), "$.rooms[1]"),
        (Billed.model_construct(account=UUID(int=1), amount="lots"), "$.amount"),
        (
            Billed(account=UUID(int=1), amount=Decimal(1)).model_copy(
                update={"address": Address.model_construct(zip="1")}
            ),
            "$.address.zip",
        ),
    ],
)
def test_a_misfit_is_refused_before_it_is_appended(data: Any, path: str) -> None:
    es = leftfold.open("memory://", Codec(*CLASSES))
    with pytest.raises(InvalidEvent) as caught:
        es.append([Event("a-1", OBJECTS[0]), Event("a-1", data)])
    assert (caught.value.event, caught.value.path) == (type(data).__name__, path)
    assert path in str(caught.value)
    assert es.head() == 0
    assert es.append_to_stream("a-1", [OBJECTS[0]]).position == 1


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=lambda name: name.replace("_d", "D"))
    amount_due: int = 0


class Excluding(pydantic.BaseModel):
    amount: int = pydantic.Field(default=0, exclude=True)


class OneSided(pydantic.BaseModel):
    amount: int = pydantic.Field(default=0, validation_alias="amt")


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_pydantic_aliases_come_back(format: Any) -> None:
    codec = Codec(Aliased, format=format)
    encoded = codec.encode(Event("a-1", Aliased(amountDue=5)))
    assert codec.decode(recorded(encoded))[0].data.amount_due == 5


@pytest.mark.parametrize("data", [Excluding(amount=5), OneSided(amt=5)])
def test_pydantic_fields_that_would_be_lost_are_refused(data: Any) -> None:
    with pytest.raises(InvalidEvent, match="reads back as something else"):
        Codec(type(data)).encode(Event("a-1", data))


class Odd(Struct):
    value: Any


@pytest.mark.parametrize("value", [object(), "\ud800", {1: {2: object()}}])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(InvalidEvent):
        Codec(Odd).encode(Event("a-1", Odd(value)))


def test_an_unregistered_class_is_refused() -> None:
    with pytest.raises(InvalidEvent, match=r"Odd .*not registered.*Opened"):
        Codec(Opened).encode(Event("a-1", Odd(1)))


def test_unknown_fields_are_ignored_and_missing_ones_take_defaults() -> None:
    assert decoded(Codec(Opened), "Opened", b'{"owner":"ada","new":[1]}') == [Opened("ada")]


@pytest.mark.parametrize("cls", [Opened, Billed])
def test_a_missing_field_without_a_default_says_where(cls: type) -> None:
    with pytest.raises(UndecodableEvent) as caught:
        decoded(Codec(cls), cls.__name__, b"{}")
    error = caught.value
    assert (error.position, error.stream, error.version) == (7, "account-1", 3)
    assert (error.type, error.schema_version) == (cls.__name__, 1)
    assert "default" in str(error)


@pytest.mark.parametrize("data", [b"", b"{", b"\x81", b"\xff", b"null", b'"x"', b"{}x"])
def test_malformed_data_is_an_undecodable_event(data: bytes) -> None:
    with pytest.raises(UndecodableEvent):
        decoded(Codec(Opened), "Opened", data)


def test_an_unknown_type_is_an_error_that_names_what_is_known() -> None:
    with pytest.raises(UnknownEventType, match=r"'Closed'.*position 7.*Opened"):
        decoded(Codec(Opened), "Closed", b"{}")


def test_an_unknown_type_passes_where_the_caller_says_so() -> None:
    event = stored("Closed", b"{}")
    assert Codec(Opened, unknown="pass").decode(event) == [event]


def test_a_newer_schema_version_asks_for_newer_code() -> None:
    with pytest.raises(UnknownEventType, match="up to schema version 1; deploy"):
        decoded(Codec(Opened), "Opened", b'{"owner":"ada"}', version=2)


class Deposited(Struct, frozen=True):
    cents: int
    fee: int = 0


class Charged(Struct, frozen=True):
    cents: int


def in_cents(data: dict[str, Any]) -> dict[str, Any]:
    return {"cents": round(data["euros"] * 100), "fee": data.get("fee", 0)}


UPCASTERS = [
    Upcaster("PaidIn", 1, lambda data: Payload("Deposited", data), to=("Deposited",)),
    Upcaster("Deposited", 1, in_cents),
    Upcaster("Deposited", 2, lambda data: [
        Payload("Deposited", {"cents": data["cents"]}, 3),
        *([Payload("Charged", {"cents": data["fee"]})] if data["fee"] else []),
    ], to=("Charged",)),
    Upcaster("Noise", 1, lambda data: []),
]  # fmt: skip


def evolved(**options: Any) -> Codec:
    return Codec(EventType(Deposited, version=3), Charged, upcasters=UPCASTERS, **options)


def test_upcasters_chain_rename_split_and_drop() -> None:
    codec = evolved()
    assert decoded(codec, "Deposited", b'{"cents":5}', 3) == [Deposited(5)]
    assert decoded(codec, "Deposited", b'{"cents":5,"fee":0}', 2) == [Deposited(5)]
    assert decoded(codec, "Deposited", b'{"euros":1.5}') == [Deposited(150)]
    assert decoded(codec, "PaidIn", b'{"euros":1.5,"fee":2}') == [Deposited(150), Charged(2)]
    assert decoded(codec, "Noise", b"{}") == []


def test_upcast_events_say_what_they_became() -> None:
    events = evolved().decode(stored("PaidIn", b'{"euros":1.5,"fee":2}'))
    assert [(each.type, each.schema_version) for each in events] == [
        ("Deposited", 3),
        ("Charged", 1),
    ]
    assert {(each.position, each.version) for each in events} == {(7, 3)}


def test_upcasters_read_msgpack_too() -> None:
    data = msgspec.msgpack.encode({"euros": 2})
    assert decoded(evolved(), "Deposited", data) == [Deposited(200)]


def test_a_query_by_class_finds_every_older_name() -> None:
    codec = evolved()
    (item,) = codec.resolve(select("a-1", types=[Charged, "Other"], tags=["t:1"])).items
    assert item == leftfold.QueryItem(
        "a-1", None, ("Charged", "PaidIn", "Deposited", "Other"), ("t:1",)
    )
    with pytest.raises(InvalidInput, match="Odd is not registered"):
        codec.resolve(select(types=[Odd]))


def test_reading_by_class_gives_only_that_class() -> None:
    es = leftfold.open("memory://")
    es.append([
        Event("a-1", b'{"euros":1,"fee":3}', type="PaidIn"),
        Event("a-1", b"{}", type="Noise"),
        Event("a-1", b'{"cents":9}', type="Charged"),
    ])  # fmt: skip
    new = leftfold.EventStore(es.store, evolved())
    assert [each.data for each in new.read(select(types=[Charged]))] == [Charged(3), Charged(9)]
    assert [each.data for each in new.read(select(types=[Deposited]))] == [Deposited(100)]
    assert [each.data for each in new.read()] == [Deposited(100), Charged(3), Charged(9)]
    found = [each.data for each in new.read(select(types=[Charged, "PaidIn"]))]
    assert found == [Deposited(100), Charged(3), Charged(9)]


def test_each_item_of_a_query_gets_its_own_classes() -> None:
    es = leftfold.open("memory://")
    for stream in ("a-1", "b-1"):
        es.append([Event(stream, b'{"euros":1,"fee":3}', type="PaidIn")])
    new = leftfold.EventStore(es.store, evolved())
    query = select("a-1", types=[Deposited]) | select("b-1", types=[Charged])
    assert [(each.stream, each.data) for each in new.read(query)] == [
        ("a-1", Deposited(100)),
        ("b-1", Charged(3)),
    ]
    query = select("a-1", types=[Charged, "Noise"]) | select("b-1", types=["PaidIn"])
    assert [(each.stream, each.data) for each in new.read(query)] == [
        ("a-1", Charged(3)),
        ("b-1", Deposited(100)),
        ("b-1", Charged(3)),
    ]


def test_a_condition_by_class_sees_every_older_name() -> None:
    es = leftfold.open("memory://")
    es.append([Event("a-1", b'{"euros":1}', type="PaidIn")])
    new = leftfold.EventStore(es.store, evolved())
    with pytest.raises(leftfold.AppendConditionFailed):
        new.append([Event("a-1", Charged(1))], conditions=[NoneMatch(select(types=[Deposited]))])
    assert es.head() == 1


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda data: data["missing"], "KeyError: 'missing'"),
        (lambda data: None, "expected a dict"),
        (lambda data: [data], "expected a dict"),
        (lambda data: Payload("Elsewhere", data), "declare to="),
        (lambda data: {"cents": "many"}, r"after upcasting.*\$\.cents"),
        (lambda data: {"cents": object()}, "after upcasting"),
        (lambda data: Payload("Deposited", data, 1), "did not end after 1000 steps"),
        (lambda data: Payload("Deposited", data, 9), "version 9, which the codec does not know"),
    ],
)
def test_a_faulty_upcaster_is_an_undecodable_event(function: Any, says: str) -> None:
    codec = Codec(EventType(Deposited, version=2), upcasters=[Upcaster("Deposited", 1, function)])
    with pytest.raises(UndecodableEvent, match=says):
        decoded(codec, "Deposited", b"{}")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Codec(Opened, Opened), "registered twice"),
        (lambda: Codec(Opened, EventType(Moved, name="Opened")), "registered twice"),
        (lambda: Codec(int), "not an event class"),
        (lambda: Codec(OBJECTS[0]), "not an event class"),  # type: ignore[arg-type]
        (lambda: Codec(EventType(Opened, version=0)), "version"),
        (lambda: Codec(EventType(Opened, version=2)), "no upcaster from 1"),
        (lambda: Codec(EventType(Opened, name="a\0")), "NUL"),
        (lambda: Codec(format="xml"), "format"),  # type: ignore[arg-type]
        (lambda: Codec(unknown="drop"), "unknown"),  # type: ignore[arg-type]
        (lambda: Codec(Opened, upcasters=[Upcaster("Opened", 1, in_cents)]), "is current"),
        (lambda: Codec(upcasters=[UPCASTERS[0], UPCASTERS[0]]), "two upcasters"),
        (lambda: Codec(upcasters=[Upcaster("A", 1, in_cents, to="B")]), "tuple"),  # type: ignore[arg-type]
    ],
)
def test_a_codec_that_contradicts_itself_is_refused(make: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        make()


def test_a_codec_lists_its_types() -> None:
    assert evolved().types == (
        EventType(Deposited, "Deposited", 3),
        EventType(Charged, "Charged", 1),
    )


@given(st.text(), st.decimals(allow_nan=False, allow_infinity=False))
def test_any_value_comes_back(owner: str, limit: Decimal) -> None:
    codec = Codec(Opened)
    data = Opened(owner, limit)
    try:
        encoded = codec.encode(Event("a-1", data))
    except InvalidEvent:
        assert any("\ud800" <= character <= "\udfff" for character in owner)
        return
    assert codec.decode(recorded(encoded))[0].data == data
