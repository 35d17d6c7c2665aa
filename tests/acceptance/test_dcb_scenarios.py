"""The 28 given/when/then scenarios of the DCB specification, through the public API.

The scenarios lie beside the project, in shared/data (dcb.events, CC BY-SA 4.0), not in it. Their
constraints are JavaScript expressions, written out below in Python; everything else is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import leftfold
from leftfold import (
    AppendConditionFailed,
    Event,
    EventStore,
    Metadata,
    NoneMatch,
    Query,
    RecordedEvent,
    select,
)

SCENARIOS = Path(__file__).parents[3] / "shared/data/dcb/dcb_events_scenarios.json"

State = dict[str, Any]

# (state before, event data, arguments, metadata) -> state after
HANDLERS: dict[str, Callable[[Any, Any, State, State], Any]] = {
    "true": lambda state, data, given, meta: True,
    "false": lambda state, data, given, meta: False,
    "state + 1": lambda state, data, given, meta: state + 1,
    "event.data.capacity": lambda state, data, given, meta: data["capacity"],
    "event.data.newCapacity": lambda state, data, given, meta: data["newCapacity"],
    "event.data.newUsername === username": lambda state, data, given, meta: (
        data["newUsername"] == given["username"]
    ),
    "event.metadata?.daysAgo <= 3": lambda state, data, given, meta: meta.get("daysAgo", 99) <= 3,
    "event.data.newUsername === username || event.metadata?.daysAgo <= 3": lambda s, data, g, m: (
        data["newUsername"] == g["username"] or m.get("daysAgo", 99) <= 3
    ),
    "event.data.invoiceNumber + 1": lambda state, data, given, meta: data["invoiceNumber"] + 1,
    "({data: event.data, otpUsed: false})": lambda state, data, given, meta: {
        "data": data,
        "otpUsed": False,
    },
    "({data: event.data, otpUsed: false, otpExpired: event.metadata?.minutesAgo > 60})": (
        lambda state, data, given, meta: {
            "data": data,
            "otpUsed": False,
            "otpExpired": float(meta.get("minutesAgo", 0)) > 60,
        }
    ),
    "({...state, otpUsed: true})": lambda state, data, given, meta: {**state, "otpUsed": True},
}

CONSTRAINTS: dict[str, Callable[[State, State], Any]] = {
    "state.courseExists": lambda state, command: state["courseExists"],
    "!state.courseExists": lambda state, command: not state["courseExists"],
    "state.courseCapacity === command.newCapacity": lambda state, command: (
        state["courseCapacity"] == command["newCapacity"]
    ),
    "state.numberOfCourseSubscriptions >= state.courseCapacity": lambda state, command: (
        state["numberOfCourseSubscriptions"] >= state["courseCapacity"]
    ),
    "state.studentAlreadySubscribed": lambda state, command: state["studentAlreadySubscribed"],
    "state.numberOfStudentSubscriptions >= 5": lambda state, command: (
        state["numberOfStudentSubscriptions"] >= 5
    ),
    "state.isUsernameClaimed": lambda state, command: state["isUsernameClaimed"],
    "!state.pendingSignUp": lambda state, command: not state["pendingSignUp"],
    "state.pendingSignUp.otpUsed": lambda state, command: state["pendingSignUp"]["otpUsed"],
    "state.pendingSignUp.otpExpired": lambda state, command: state["pendingSignUp"]["otpExpired"],
    "state.idempotencyTokenWasUsed": lambda state, command: state["idempotencyTokenWasUsed"],
}


class Scenario:
    """One system with everything that it inherits from the systems it extends."""

    def __init__(self, system: State, parent: Scenario | None) -> None:
        self.events = dict(parent.events if parent else {})
        self.projections = dict(parent.projections if parent else {})
        self.handlers = dict(parent.handlers if parent else {})
        for each in system.get("eventDefinitions") or ():
            self.events[each["name"]] = each
        for each in system.get("projections") or ():
            self.projections[each["name"]] = each
        for each in system.get("commandHandlerDefinitions") or ():
            self.handlers[each["commandName"]] = each
        self.cases = system["testCases"]

    def event(self, given: State) -> Event[bytes]:
        """The event with the tags that its definition resolves."""
        name, data = given["type"], given["data"]
        resolvers = self.events[name]["tagResolvers"]
        tags = [fill(tag, {"data": data}) for tag in resolvers]
        metadata = Metadata(extra=given.get("metadata") or {})
        encoded = json.dumps(data).encode()
        return Event("log-1", encoded, type=name, tags=tuple(tags), metadata=metadata)

    def project(self, es: EventStore, name: str, arguments: State) -> tuple[Any, Query]:
        projection = self.projections[name]
        tags = [fill(tag, arguments) for tag in projection.get("tagFilters") or ()]
        query = select(types=projection["handlers"], tags=tags)
        state = projection["stateSchema"].get("default")
        for recorded in es.read(query):
            handler = HANDLERS[projection["handlers"][recorded.type]]
            state = handler(state, data_of(recorded), arguments, dict(recorded.metadata.extra))
        return state, query

    def decide(self, es: EventStore, command: State) -> tuple[Event[bytes], Query]:
        """The event that the command comes to, and what the decision rests on."""
        handler = self.handlers[command["type"]]
        state: State = {}
        boundary: Query | None = None
        for model in handler["decisionModels"]:
            names = [parameter.removeprefix("command.") for parameter in model["parameters"]]
            arguments = {name: command["data"][name] for name in names}
            state[model["name"]], query = self.project(es, model["name"], arguments)
            boundary = query if boundary is None else boundary | query
        known = {"command": command["data"], "state": state}
        for check in handler["constraintChecks"]:
            if CONSTRAINTS[check["condition"]](state, command["data"]):
                raise PermissionError(fill(check["errorMessage"], known))
        success = handler["successEvent"]
        data = {name: value_of(each, known) for name, each in success["data"].items()}
        assert boundary is not None
        return self.event({"type": success["type"], "data": data}), boundary


def value_of(template: str, known: State) -> Any:
    value: Any = known
    for part in template.strip("{}").split("."):
        value = value[part]
    return value


def fill(template: str, known: State) -> str:
    return re.sub(r"\{([^}]*)\}", lambda found: str(value_of(found[1], known)), template)


def data_of(recorded: RecordedEvent[Any]) -> Any:
    return json.loads(recorded.data)


def load() -> list[tuple[Scenario, State]]:
    systems: dict[str, Scenario] = {}
    cases = []
    for system in json.loads(SCENARIOS.read_text()):
        meta = system["meta"]
        parent = systems[meta["extends"]] if "extends" in meta else None
        scenario = systems[meta.get("id", "")] = Scenario(system, parent)
        cases += [(scenario, case) for case in scenario.cases]
    return cases


def test_all_scenarios_are_here() -> None:
    assert SCENARIOS.exists(), f"this test needs the data beside the project: {SCENARIOS}"
    assert len(load()) == 28


@pytest.mark.parametrize("number", range(28))
@pytest.mark.parametrize("store", ["memory", "sqlite", "postgresql"])
def test_scenario(number: int, store: str, new_url: Callable[[str], str]) -> None:
    scenario, case = load()[number]
    with leftfold.open(new_url(store)) as es:
        for given in case["givenEvents"] or ():
            es.append([scenario.event(given)])
        after = es.head()
        if "thenExpectedError" in case:
            with pytest.raises(PermissionError) as caught:
                scenario.decide(es, case["whenCommand"])
            assert str(caught.value) == case["thenExpectedError"]
            assert es.head() == after
            return
        event, boundary = scenario.decide(es, case["whenCommand"])
        condition = NoneMatch(boundary, after)
        es.append([event], conditions=[condition])
        *_, last = es.read()
        expected = case["thenExpectedEvent"]
        assert (last.type, data_of(last)) == (expected["type"], expected["data"])
        # What was decided on is stale now: the same decision again must be refused.
        again = scenario.event(expected)
        with pytest.raises(AppendConditionFailed) as refused:
            es.append([again], conditions=[condition])
        assert refused.value.found == last.position == es.head()
