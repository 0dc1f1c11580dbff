"""The table of what the torture tests counted, at the end of a run."""

from __future__ import annotations

import pytest

_PROPERTY = "torture"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows: list[tuple[str, str]] = []
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") != "teardown":
                continue
            figures = [value for name, value in report.user_properties if name == _PROPERTY]
            if figures:
                rows.append((report.nodeid.rpartition("::")[2], ", ".join(figures)))
    if rows:
        width = max(len(test) for test, _ in rows)
        terminalreporter.section("torture")
        for test, figures in sorted(rows):
            terminalreporter.write_line(f"{test:{width}}  {figures}")
