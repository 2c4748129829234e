"""Fixtures of the fault tests, and the campaign's count."""

import pytest

from steady import Steady

attempts = []


@pytest.fixture
def steady(freezepoint):
    return Steady(freezepoint)


@pytest.fixture
def note_attempt():
    """Counts one killed process of the campaign: (phase, victim)."""
    return attempts.append


def pytest_terminal_summary(terminalreporter):
    if attempts:
        phases = len({phase for phase, _ in attempts})
        victims = len({victim for _, victim in attempts})
        terminalreporter.write_line(
            f"campaign: {len(attempts)} processes killed: {victims} victims in {phases} phases")
