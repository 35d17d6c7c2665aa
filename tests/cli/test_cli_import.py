"""import: what becomes of rows, and that each is recorded once, whatever happens in between."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

import leftfold
from leftfold import Event, Metadata
from leftfold.cli.importer import BATCH_EVENTS_MAX, SPAN_PER_EVENT_MAX, Importer
from leftfold.cli.interrupt import Interrupts

MAPPING = ("--stream", "account-{account}", "--type", "Deposited", "--id", "{number}")
CSV = "number,account,amount\n1,a,5.50\n2,b,7\n3,a,1\n"


def counts(result):
    found = result.json
    return found["read"], found["appended"], found["already_there"]


def lines(count, start=0):
    return [
        json.dumps({"stream": f"a-{n % 3}", "type": "A", "data": {"n": n}})
        for n in range(start, start + count)
    ]


def numbers(log):
    return [json.loads(event.data)["n"] for event in log.read()]


def test_lines_written_by_hand(run, log, here):
    (here / "in.jsonl").write_text(
        '{"stream":"a-1","type":"A","data":{"n":1}}\n'
        "\n"
        '{"stream":"a-2","type":"B","data":[1.50],"tags":["x"],"metadata":{"actor":"ada",'
        '"extra":{"k":1}},"occurred_at":"2020-01-01T01:00:00+01:00","id":"row 2"}\n'
        '{"stream":"a-1","type":"A","data_base64":"/w=="}'
    )
    assert run("import", "in.jsonl").rows[:5] == [
        ["source", "in.jsonl"],
        ["read", "3"],
        ["appended", "3"],
        ["already_there", "0"],
        ["complete", "True"],
    ]
    first, second, third = log.read()
    assert (first.stream, first.type, first.data, first.tags) == ("a-1", "A", b'{"n":1}', ())
    assert first.occurred_at == first.recorded_at
    assert (second.data, second.tags) == (b"[1.50]", ("x",))
    assert second.metadata == Metadata(actor="ada", extra={"k": 1})
    assert second.occurred_at == datetime(2020, 1, 1, tzinfo=UTC)
    assert (third.data, third.version) == (b"\xff", 2)


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "-"])
def test_a_second_import_adds_nothing(run, log, here, name):
    content = "\n".join(lines(2500)).encode()
    if name != "-":
        (here / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    given = {"input": content} if name == "-" else {}
    assert counts(run("import", name, "--json", **given)) == (2500, 2500, 0)
    before = list(log.read())
    assert counts(run("import", name, "--json", **given)) == (2500, 0, 2500)
    assert list(log.read()) == before
    assert numbers(log) == list(range(2500))


def test_the_same_content_on_two_lines_is_two_events(run, log, here):
    (here / "in.jsonl").write_text((lines(1)[0] + "\n") * 3)
    assert counts(run("import", "in.jsonl", "--json")) == (3, 3, 0)
    assert counts(run("import", "in.jsonl", "--json")) == (3, 0, 3)
    # From another source it is another fact, wherever the file lies.
    (here / "folder").mkdir()
    (here / "in.jsonl").rename(here / "folder" / "in.jsonl")
    assert counts(run("import", "folder/in.jsonl", "--json")) == (3, 0, 3)
    assert counts(run("import", "folder/in.jsonl", "--json", "--source", "b")) == (3, 3, 0)
    assert log.head() == 6


def test_a_longer_file_adds_what_is_new(run, log, here):
    (here / "in.jsonl").write_text("\n".join(lines(1500)))
    run("import", "in.jsonl")
    (here / "in.jsonl").write_text("\n".join(lines(3200)))
    assert counts(run("import", "in.jsonl", "--json")) == (3200, 1700, 1500)
    assert numbers(log) == list(range(3200))


def test_rows_that_are_recorded_far_apart_are_found_again(run, log, here, monkeypatch):
    for n in range(30):
        (here / "in.jsonl").write_text("\n".join(lines(1, n)))
        run("import", "in.jsonl", "--source", f"s{n}")
        log.append([Event("other-1", b"{}", type="B") for _ in range(20)])
    text = [
        json.dumps({**json.loads(line), "id": str(event.id)})
        for line, event in zip(
            lines(30), [each for each in log.read() if each.type == "A"], strict=True
        )
    ]
    (here / "all.jsonl").write_text("\n".join(text))
    head = log.head()
    spans = []
    read = leftfold.EventStore.read

    def read_span(store, *query, after=0, until=None, **options):
        spans.append(until - after)
        return read(store, *query, after=after, until=until, **options)

    monkeypatch.setattr(leftfold.EventStore, "read", read_span)
    assert counts(run("import", "all.jsonl", "--json")) == (30, 0, 30)
    # It does not read all that lies between them.
    assert max(spans) <= 30 * SPAN_PER_EVENT_MAX < head
    assert log.head() == head


def test_csv_with_a_mapping(run, log):
    done = run(
        *("import", "-", "--json", *MAPPING, "--occurred-at", "{date}"),
        *("--date-format", "%y%m%d", "--time-zone", "Europe/Prague", "--delimiter", ";"),
        *("--tag", "owner:{owner}", "--tag", "imported"),
        *("--field", "amount=sum", "--field", "n:int=number", "--field", "net:number=sum"),
        *("--field", "open:bool=open", "--field", "who={owner}/{account}"),
        input="number;account;date;owner;sum;open\n007;a;930701;ada;5.50;yes\n8;b;930101;;;F\n\n",
    )
    assert counts(done) == (2, 2, 0)
    first, second = log.read()
    assert (first.stream, first.type, first.tags) == (
        *("account-a", "Deposited"),
        ("owner:ada", "imported"),
    )
    expected = b'{"amount":"5.50","n":7,"net":5.50,"open":true,"who":"ada/a"}'
    assert first.data == expected
    # Midnight in Prague, in summer and in winter.
    assert first.occurred_at == datetime(1993, 6, 30, 22, tzinfo=UTC)
    assert second.occurred_at == datetime(1992, 12, 31, 23, tzinfo=UTC)
    assert second.tags == ("imported",)
    assert second.data == b'{"amount":"","n":8,"net":null,"open":false,"who":""}'


def test_every_column_is_a_string_by_default(run, log):
    run("import", "-", *MAPPING, input='\ufeffnumber,account,text\n1,a,"x, ""y""\nz"\n')
    [event] = log.read()
    assert json.loads(event.data) == {"number": "1", "account": "a", "text": 'x, "y"\nz'}


def test_a_mapping_from_a_file(run, log, here):
    (here / "in.csv").write_text(CSV)
    mapping = {
        "stream": "account-{account}",
        "type": "{account}",
        "id": "{number}",
        "tags": ["t:{account}"],
        "fields": {"n:int": "number"},
        "time_zone": "UTC",
        "delimiter": ",",
    }
    (here / "map.json").write_text(json.dumps(mapping))
    run("import", "in.csv", "--mapping", "map.json", "--type", "Deposited")
    first, *_ = log.read()
    assert (first.stream, first.type, first.data) == ("account-a", "Deposited", b'{"n":1}')
    assert first.tags == ("t:a",)
    (here / "map.json").write_text('{"steam": "a"}')
    assert "steam" in run("import", "in.csv", "--mapping", "map.json", code=2).err
    assert "No such file" in run("import", "in.csv", "--mapping", "no.json", code=2).err


def test_numbers_keep_their_digits(run, log):
    fields = ("--field", "a:number=amount", "--field", "b:int=number")
    rows = "1,a,0.10\n2,a,-007.50\n3,a,.5\n-12345678901234567890123,a,1e3\n"
    run("import", "-", *MAPPING, *fields, input="number,account,amount\n" + rows)
    assert [each.data for each in log.read()] == [
        b'{"a":0.10,"b":1}',
        b'{"a":-7.50,"b":2}',
        b'{"a":0.5,"b":3}',
        b'{"a":1E+3,"b":-12345678901234567890123}',
    ]


def test_with_an_app_text_becomes_what_the_class_says(run, log):
    run(
        *("import", "-", "--app", "bank:app", "--stream", "account-{account}"),
        *("--type", "{type}", "--field", "owner=owner", "--field", "since=date"),
        input="account,type,owner,date\n1,Opened,ada,2020-01-02\n",
    )
    run("import", "-", "--app", "bank:app", *MAPPING, "--field", "amount=amount", input=CSV)
    run(
        *("import", "-", "--app", "bank:app", "--stream", "count-1", "--type", "Counted"),
        input="number,final\n7,true\n",
    )
    opened, *deposits, counted = log.read()
    assert counted.data == b'{"number":7,"final":true}'
    assert (opened.tags, opened.data) == (
        ("owner:ada",),
        b'{"owner":"ada","since":"2020-01-02"}',
    )
    assert [each.data for each in deposits] == [
        b'{"amount":"5.50"}',
        b'{"amount":"7"}',
        b'{"amount":"1"}',
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"type": "Deposited", "data": {"amount": "x"}}, "no Deposited"),
        ({"type": "Deposited", "data": {"amount": 1, "to": 2}}, "has no field 'to'"),
        ({"type": "Closed", "data": {}}, "Deposited, Opened"),
        ({"type": "Deposited", "data": {}, "schema_version": 1}, "missing required field"),
        ({"type": "Deposited", "data": {"amount": 1}, "schema_version": 2}, "newer code"),
    ],
)
def test_with_an_app_errors_name_the_line(run, log, line, says):
    good = json.dumps({"stream": "account-1", "type": "Deposited", "data": {"amount": "1.5"}})
    bad = json.dumps({"stream": "account-1", **line})
    err = run("import", "-", "--app", "bank:app", input=f"{good}\n{bad}\n", code=2).err
    assert "stdin, line 2: " in err
    assert says in err
    assert log.head() == 1


def test_what_was_exported_comes_back_unchanged_with_an_app(run, log, here):
    data = b'{"amount":1.0,"more":true}'
    log.append([Event("account-1", data, type="Deposited", tags=("by hand",))])
    run("export", "log.jsonl")
    run("import", "log.jsonl", "--app", "bank:app", "--store", "sqlite:///other.db")
    with leftfold.open("sqlite:///other.db") as other:
        [event] = other.read()
    assert (event.data, event.tags) == (data, ("by hand",))


BROKEN = {
    "broken JSON": (b'{"stream":', "not JSON"),
    "no object": (b"[1]", "Expected `object`"),
    "a misspelt field": (b'{"stream":"a-1","type":"A","data":1,"tag":["x"]}', "`tag`"),
    "misspelt metadata": (
        b'{"stream":"a-1","type":"A","data":1,"metadata":{"acter":"x"}}',
        "`acter`",
    ),
    "no type": (b'{"stream":"a-1","data":{}}', "`type`"),
    "no data": (b'{"stream":"a-1","type":"A"}', "either data or data_base64"),
    "both": (b'{"stream":"a-1","type":"A","data":1,"data_base64":""}', "either data or"),
    "no base64": (b'{"stream":"a-1","type":"A","data_base64":"*"}', "not base64"),
    "an empty stream": (b'{"stream":"","type":"A","data":1}', "stream is not empty"),
    "a long name": (b'{"stream":"%s","type":"A","data":1}' % (b"x" * 300), "255 bytes"),
    "a tag twice": (b'{"stream":"a-1","type":"A","data":1,"tags":["x","x"]}', "given once"),
    "no time zone": (
        b'{"stream":"a-1","type":"A","data":1,"occurred_at":"2020-01-01T00:00:00"}',
        "time zone",
    ),
    "bad UTF-8": (b'{"stream":"a-1","type":"A","data":"\xff"}', "not UTF-8 at byte 36"),
    "a version below 1": (
        b'{"stream":"a-1","type":"A","data":1,"schema_version":-1}',
        "schema_version",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_named_and_what_is_before_it_stays(run, log, here, case):
    content, says = BROKEN[case]
    good = [each.encode() for each in lines(1205)]
    (here / "in.jsonl").write_bytes(b"\n".join([*good[:1203], content, *good[1204:]]))
    result = run("import", "in.jsonl", "--json", code=2)
    assert "leftfold: in.jsonl, line 1204: " in result.err
    assert says in result.err
    assert counts(result) == (1203, 1203, 0)
    assert result.json["complete"] is False
    assert numbers(log) == list(range(1203))
    # Mended, it goes on.
    (here / "in.jsonl").write_bytes(b"\n".join(good))
    assert counts(run("import", "in.jsonl", "--json")) == (1205, 2, 1203)
    assert numbers(log) == list(range(1205))


ROWS = {
    "a missing column": ("1,a", "2 columns, the header has 3"),
    "one column more": ("1,a,2,3", "4 columns, the header has 3"),
    "an empty id": (",a,5", "a column of --id is empty"),
    "an empty stream": ("1,,5", "a column of --stream is empty"),
    "no number": ("1,a,5 EUR", "field 'amount' is a number, found '5 EUR'"),
    "no end of a quote": ('1,a,"5', "not CSV"),
    "text after a quote": ('1,a,"5"x', "not CSV"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_broken_row_is_named_and_what_is_before_it_stays(run, log, case):
    row, says = ROWS[case]
    text = f'number,account,amount\n8,a,1\n9,"a\nb",1\n{row}\n10,a,2\n'
    arguments = ("import", "-", "--json", *MAPPING, "--field", "amount:number=amount")
    result = run(*arguments, input=text, code=2)
    # A row of two lines is before it.
    assert "leftfold: stdin, line 5: " in result.err
    assert says in result.err
    assert [each.stream for each in log.read()] == ["account-a", "account-a\nb"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--stream", "a-{nummer}", "--type", "A"], "--stream wants a column 'nummer'; the file"),
        (["--stream", "a-1", "--type", "{kind}"], "has number, account, amount"),
        ([*MAPPING, "--tag", "{x}"], "--tag wants a column 'x'"),
        ([*MAPPING, "--field", "a=x"], "--field wants a column 'x'"),
        ([*MAPPING, "--field", "a={x}"], "--field wants a column 'x'"),
        ([*MAPPING, "--field", "a:float=amount"], "kind of string, int, number, bool"),
        ([*MAPPING, "--field", "amount"], "--field is NAME=COLUMN"),
        ([*MAPPING, "--occurred-at", "{when}"], "--occurred-at wants a column"),
        ([*MAPPING, "--date-format", "%y"], "--date-format is for --occurred-at"),
        ([*MAPPING, "--occurred-at", "{account}"], "wants a moment in ISO 8601, found 'a'"),
        ([*MAPPING, "--time-zone", "Mars/Base"], "--time-zone is a name such as UTC"),
        ([*MAPPING, "--delimiter", "::"], "--delimiter is one character"),
        (["--stream", "a-{account!r}", "--type", "A"], "only the name of a column"),
        (["--stream", "a-{account", "--type", "A"], "--stream is text with {column}"),
        (["--stream", "a-{account}"], "needs --stream and --type"),
        ([], "needs --stream and --type"),
        (["--format", "jsonl", *MAPPING], "a mapping is for CSV"),
    ],
)
def test_a_mapping_that_does_not_fit(run, here, arguments, says):
    (here / "in.csv").write_text(CSV)
    assert says in run("import", "in.csv", *arguments, code=2).err
    if "ISO" not in says:
        assert not (here / "log.db").exists()


def test_files_without_rows(run, log, here):
    (here / "empty.jsonl").touch()
    assert counts(run("import", "empty.jsonl", "--json")) == (0, 0, 0)
    (here / "header.csv").write_text("number,account,amount\n")
    assert counts(run("import", "header.csv", "--json", *MAPPING)) == (0, 0, 0)
    (here / "empty.csv").touch()
    assert "begins with the names" in run("import", "empty.csv", *MAPPING, code=2).err
    (here / "twice.csv").write_text("number,account,number\n")
    assert "same name" in run("import", "twice.csv", *MAPPING, code=2).err


def test_files_that_cannot_be_read(run, log, here):
    assert "No such file" in run("import", "no.jsonl", code=2).err
    (here / "folder").mkdir()
    assert "Is a directory" in run("import", "folder", code=2).err
    (here / "x.jsonl.gz").write_bytes(b"not gzip")
    assert "x.jsonl, line 1: the gzip file is broken" in run("import", "x.jsonl.gz", code=2).err
    whole = gzip.compress("\n".join(lines(5000)).encode())
    (here / "x.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    assert "the gzip file is broken" in run("import", "x.jsonl.gz", code=2).err
    kept = log.head()
    assert numbers(log) == list(range(kept))
    (here / "x.jsonl.gz").write_bytes(whole)
    run("import", "x.jsonl.gz")
    assert numbers(log) == list(range(5000))


def test_a_line_without_an_end(run, log, here, monkeypatch):
    monkeypatch.setattr("leftfold.cli.rows.LINE_BYTES_MAX", 1000)
    (here / "in.jsonl").write_text(lines(1)[0] + "\n" + '{"stream":' + " " * 5000)
    assert "line 2: it has more than 1000 bytes" in run("import", "in.jsonl", code=2).err
    assert log.head() == 1


@pytest.mark.parametrize("apart", [1, BATCH_EVENTS_MAX + 5])
def test_one_id_with_two_contents_is_an_error(run, log, apart):
    rows = [f"{n},a,{n}" for n in range(apart)] + ["0,a,99", "5000,a,1"]
    text = "number,account,amount\n" + "\n".join(rows)
    result = run("import", "-", "--json", *MAPPING, input=text, code=2)
    assert f"stdin, line {apart + 2}: " in result.err
    assert ("line 2" if apart == 1 else "position 1") + " has the same event id" in result.err
    # What is before it stays, what is after it is not recorded.
    assert log.head() == apart


def test_a_repeated_row_with_an_id_is_one_event(run, log):
    assert counts(run("import", "-", "--json", *MAPPING, input=CSV + "2,b,7\n")) == (4, 3, 1)
    assert log.head() == 3


CHANGED = [
    {"stream": "a-2"},
    {"type": "B"},
    {"data": {"n": 2}},
    {"tags": ["y"]},
    {"metadata": {"actor": "ben"}},
    {"schema_version": 2},
    {"occurred_at": "2020-01-02T00:00:00Z"},
    {"occurred_at": None},
]


@pytest.mark.parametrize("change", CHANGED, ids="/".join)
def test_an_id_that_another_event_has_is_an_error(run, log, change):
    line = {
        "stream": "a-1",
        "type": "A",
        "data": {"n": 1, "m": 2},
        "tags": ["x"],
        "metadata": {"actor": "ada"},
        "schema_version": 1,
        "occurred_at": "2020-01-01T00:00:00Z",
        "id": "0b4e9a6e-6a0e-4c5e-9d52-1f6a0c5b7e11",
    }
    run("import", "-", input=json.dumps(line))
    [event] = log.read()
    assert event.id == UUID(line["id"])
    # The order of fields says nothing.
    same = line | {"data": {"m": 2, "n": 1}}
    assert counts(run("import", "-", "--json", input=json.dumps(same))) == (1, 0, 1)
    other = json.dumps(line | change)
    new = [json.dumps(line | {"id": None, "data": n}) for n in range(2)]
    text = "\n".join([new[0], other, new[1]])
    result = run("import", "-", "--json", input=text, code=2)
    assert "stdin, line 2: position 1 has the same event id" in result.err
    # The row before it is recorded, the one after it is not.
    assert [each.data for each in log.read()][1:] == [b"0"]


def test_batches_have_a_size(run, log, here, monkeypatch):
    sizes = []
    append = leftfold.EventStore.append

    def count(store, events, **conditions):
        events = list(events)
        sizes.append((len(events), sum(len(each.data) for each in events)))
        return append(store, events, **conditions)

    monkeypatch.setattr(leftfold.EventStore, "append", count)
    monkeypatch.setattr("leftfold.cli.importer.BATCH_BYTES_MAX", 5000)
    monkeypatch.setattr("leftfold.cli.importer.BATCH_EVENTS_MAX", 10)
    text = [
        json.dumps({"stream": "a-1", "type": "A", "data": "x" * (10 if n < 50 else 2000)})
        for n in range(60)
    ]
    run("import", "-", input="\n".join(text))
    assert len(sizes) == 10
    assert max(count for count, _ in sizes) == 10
    assert max(size for _, size in sizes) <= 5000


def test_the_rows_of_an_importer_keep_their_order(run, log):
    importer = Importer(log, Interrupts(), "here")
    importer.add_all(iter(()))
    assert (importer.read, importer.appended, importer.known) == (0, 0, 0)
    text = "\n".join(lines(30))
    run("import", "-", input=text)
    assert [each.version for each in log.read() if each.stream == "a-0"] == list(range(1, 11))
