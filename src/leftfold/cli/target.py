"""What --app names: an App or a Codec in a module of the user."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from types import ModuleType
from typing import Any

from msgspec import Struct

from leftfold.app import App
from leftfold.codec import Codec
from leftfold.errors import InvalidInput

# What a faulty module may raise when it is imported: it is reported with its line.
_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


class Target(Struct, frozen=True):
    """What --app named. `app` is None where it was a Codec."""

    name: str
    codec: Codec
    app: App | None = None


def load_target(name: str) -> Target:
    """Import what `name`, a MODULE:ATTRIBUTE, says. Raises InvalidInput."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise InvalidInput(f"--app is MODULE:ATTRIBUTE, such as bank:app, found {name!r}")
    found: Any = _import(module_name)
    module = found
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InvalidInput(f"module {module_name!r} has no {attribute!r}; {_offers(module)}")
        found = getattr(found, part)
    if isinstance(found, Codec):
        return Target(name, found)
    if isinstance(found, App) and isinstance(found.codec, Codec):
        return Target(name, found.codec, found)
    kind = type(found).__name__
    raise InvalidInput(
        f"--app is an App or a Codec, found {name} of type {kind}; {_offers(module)}"
    )


def _offers(module: ModuleType) -> str:
    """Which names of the module would do."""
    names = [name for name, each in vars(module).items() if isinstance(each, Codec | App)]
    return f"it has {', '.join(names)}" if names else "it has no App and no Codec"


def _import(name: str) -> ModuleType:
    # The current directory, as `python -m` does it.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise InvalidInput(
                f"there is no module {error.name!r}, looked for in {os.getcwd()} and sys.path"
            ) from None
        raise InvalidInput(_fault(name, error)) from error
    except _FAULTS as error:
        raise InvalidInput(_fault(name, error)) from error


def _fault(name: str, error: BaseException) -> str:
    what = "".join(traceback.format_exception_only(error)).strip()
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if isinstance(error, SyntaxError) else f" ({place.filename}, line {place.lineno})"
    return f"cannot import {name!r}: {what}{where}"
