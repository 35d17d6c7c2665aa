"""What a process manager is made of: checked when it is made. Without I/O."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from leftfold.codec import Codec
from leftfold.errors import InvalidInput
from leftfold.limits import check_name
from leftfold.process.rules import Rules
from leftfold.process.wire import commands_of


def check_functions(rules: Rules[Any]) -> None:
    """Refuse, with InvalidInput, what cannot be called."""
    of = f"of process {rules.name!r}"
    for what in ("key", "evolve", "react", "migrate"):
        function: Any = getattr(rules, what)
        if what == "migrate" and function is None:
            continue
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise InvalidInput(f"{what} {of} is a plain function, found {function!r}")
    calls: Any = rules.calls
    if not isinstance(calls, Mapping):
        raise InvalidInput(f"calls {of} are a dict of functions by name, found {calls!r}")
    for name, function in calls.items():
        check_name(f"name in calls {of}", name)
        if not callable(function):
            raise InvalidInput(f"call {name!r} {of} is a function, found {function!r}")


def check_lists(rules: Rules[Any]) -> None:
    """Refuse, with InvalidInput, what cannot be in the lists that it has."""
    of = f"of process {rules.name!r}"
    if not isinstance(rules.commands, Codec):
        listed(f"commands {of}", rules.commands)
    try:
        codec = commands_of(rules)
    except InvalidInput as error:
        raise InvalidInput(f"commands {of}: {error}") from None
    if codec.format != "json":
        raise InvalidInput(f"commands {of} are kept as JSON, found format={codec.format!r}")
    steps = listed(f"steps {of}", rules.steps)
    for name in steps:
        check_name(f"name in steps {of}", name)
        if name.startswith("undo "):
            # So are those called that take back a step.
            raise InvalidInput(f"names in steps {of} do not begin with 'undo ', found {name!r}")
        if steps.count(name) > 1:
            raise InvalidInput(f"each name in steps {of} is given once, found {name!r} again")
    for each in listed(f"earlier {of}", rules.earlier):
        if not isinstance(each, Rules):
            raise InvalidInput(f"earlier {of} are process managers, found {each!r}")


def listed(what: str, found: Any) -> Sequence[Any]:
    """A list or a tuple itself. Raises InvalidInput for anything else."""
    if not isinstance(found, list | tuple):
        raise InvalidInput(f"{what} are a list, found {found!r}; put it in brackets")
    return found
