"""Fixtures of the fault tests, and the campaign's count."""

import pytest

from steady import Steady

# What failures of a migration say.
SIGNS = {"lost": ["no copy", "the client: "], "doubled": ["two copies", "run twice"],
         "leftovers": ["table ", "the address", "draft", "/run/", "cgroup", "process "]}

attempts = []
migrations = {}
migrations_failed = []


@pytest.fixture
def steady(freezepoint):
    return Steady(freezepoint)


@pytest.fixture
def note_attempt():
    """Counts one killed process of the campaign: (phase, victim)."""
    return attempts.append


@pytest.fixture
def note_migrations():
    """Counts what was done to migrations, and gathers what became of it."""
    def note(kind=None, count=0, failures=()):
        if kind:
            migrations[kind] = migrations.get(kind, 0) + count
        migrations_failed.extend(failures)
    return note


def pytest_terminal_summary(terminalreporter):
    if attempts:
        phases = len({phase for phase, _ in attempts})
        victims = len({victim for _, victim in attempts})
        terminalreporter.write_line(
            f"campaign: {len(attempts)} processes killed: {victims} victims in {phases} phases")
    if migrations:
        tried = ", ".join(f"{count} {kind}" for kind, count in migrations.items())
        said = [failure.split("\n")[0] for failure in migrations_failed]
        wrong = {kind: sum(any(sign in line for sign in signs) for line in said)
                 for kind, signs in SIGNS.items()}
        found = ", ".join(f"{count} {kind}" for kind, count in wrong.items())
        terminalreporter.write_line(f"campaign: {tried}: {found}; {len(migrations_failed)} failed")
