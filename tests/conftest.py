"""Has the files of all tests in memory where there is room, as flushing them to a disk takes
long. No test needs a disk: processes are killed, machines are not, and power cuts are
those of `leftfold.testing.faults`. TMPDIR=/tmp has them on the disk.

Says at the top of each report where they are, and whether the acceptance tests can run. See
tests/acceptance.
"""

import logging
import os
import shutil
import tempfile
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared/data"
MEMORY = Path("/dev/shm")
ROOM = 6 * 1024**3
"""Bytes that have to be free there."""


def _has_room() -> bool:
    if not os.access(MEMORY, os.W_OK) or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return False
    return shutil.disk_usage(MEMORY).free >= ROOM


if "TMPDIR" not in os.environ and _has_room():
    # For the processes that tests start, and for this one, which may have looked already.
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


@pytest.fixture(autouse=True)
def _logs() -> None:
    """A block of the docs lets failures be logged no more."""
    logging.getLogger("leftfold").setLevel(logging.NOTSET)


def pytest_report_header() -> list[str]:
    found = "found" if DATA.is_dir() else "MISSING, so what needs it is left out"
    return [
        f"data for the acceptance tests ({DATA}): {found}",
        f"files of the tests: {tempfile.gettempdir()}",
    ]
