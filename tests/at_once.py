"""Print a failure when it happens: a run that is cut off names no failure otherwise."""

from __future__ import annotations

import pytest


class AtOnce:
    """A plugin of the process that prints; those that share the tests only send it their reports."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.ensure_newline()
            self._terminal.write_line(f"FAILED at {report.when}: {report.nodeid}\n{report.longreprtext[-4000:]}")


def register(config: pytest.Config) -> None:
    """Use it in this run."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(AtOnce(terminal), "failures at once")
