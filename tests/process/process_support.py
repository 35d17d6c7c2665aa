"""Waiting for processes at work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import leftfold
from leftfold import Event, select
from leftfold.process import Instance, ProcessManager
from leftfold.process import events as log

STUCK_S = 30.0


def eventually(is_so: Callable[[], Any], what: str) -> Any:
    """Wait for something, with a limit."""
    deadline_s = time.monotonic() + STUCK_S
    while time.monotonic() < deadline_s:
        if found := is_so():
            return found
        time.sleep(0.01)
    raise AssertionError(f"within {STUCK_S} s it did not happen that {what}")


def instance(es: leftfold.EventStore, process: ProcessManager[Any], key: str) -> Instance:
    found = es.state(process.decider, key)
    assert isinstance(found, Instance)
    return found


def wait_for(
    es: leftfold.EventStore, process: ProcessManager[Any], key: str, status: str
) -> Instance:
    try:
        eventually(lambda: instance(es, process, key).status == status, f"{key} is {status}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {instance(es, process, key)}") from None
    return instance(es, process, key)


def types(es: leftfold.EventStore, stream: str) -> list[str]:
    return [each.type.removeprefix("process.") for each in es.read(select(stream))]


def request(key: str, data: Any) -> Event[Any]:
    return Event(f"request-{key}", data)


SENT = log.type_name(log.StepSent)
