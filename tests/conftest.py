"""Says at the top of each report whether the acceptance tests can run. See tests/acceptance."""

from pathlib import Path

DATA = Path(__file__).parents[2] / "shared/data"


def pytest_report_header() -> str:
    found = "found" if DATA.is_dir() else "MISSING, so what needs it is left out"
    return f"data for the acceptance tests ({DATA}): {found}"
