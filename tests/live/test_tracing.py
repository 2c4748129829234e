"""Tracers may watch the points: their breakpoint in the preload library is dumped with
the program, and does not end its copies."""

import contextlib
import os
import pathlib
import re
import subprocess

import pytest

from harness import APPS, wait_for

TRACING = pathlib.Path("/sys/kernel/tracing")
FIRST, EVERY = 100, 100


def preload_of(pid):
    maps = pathlib.Path(f"/proc/{pid}/maps").read_text()
    found = re.search(r" (/\S*preload/\w+\.so)$", maps, re.M)
    return found and found.group(1)


def tracepoint_of(library):
    """Where it is, and the registers of its arguments, as tracefs calls them (%bx)."""
    notes = subprocess.run(["readelf", "-n", library], capture_output=True, text=True, check=True,
                           env={**os.environ, "LC_ALL": "C"}).stdout
    address, *registers = re.search(
        r"Provider: freezepoint\s+Name: point\s+Location: (0x\w+), .*\s+"
        r"Arguments: 8@(%\w+) 8@(%\w+)", notes).groups()
    return address, *(re.sub(r"^%r(?=\D)", "%", register) for register in registers)


class Tracer:
    def __init__(self, name):
        self.group = re.sub(r"\W", "_", name)
        self.instance = TRACING / "instances" / self.group

    def _define(self, text):
        """Others' stay; Python's own append mode seeks, which fails here."""
        events = os.open(TRACING / "uprobe_events", os.O_WRONLY | os.O_APPEND)
        try:
            os.write(events, text.encode())
        finally:
            os.close(events)

    def _enable(self, value):
        (self.instance / "events" / self.group / "point" / "enable").write_text(value)

    def attach(self, library):
        address, rule, hit = tracepoint_of(library)
        self._define(f"p:{self.group}/point {library}:{address} rule={rule}:u64 hit={hit}:u64")
        self.instance.mkdir()
        self._enable("1")

    def detach(self):
        self._enable("0")

    def events(self):
        trace = (self.instance / "trace").read_text()
        return [tuple(map(int, event)) for event in re.findall(r"rule=(\d+) hit=(\d+)", trace)]

    def remove(self):
        with contextlib.suppress(OSError):
            self._enable("0")
        with contextlib.suppress(OSError):
            self.instance.rmdir()
        with contextlib.suppress(OSError):
            self._define(f"-:{self.group}/point")


@pytest.fixture
def tracer(freezepoint):
    if not (TRACING / "uprobe_events").exists():
        pytest.skip("the kernel has no uprobes, or tracefs is not mounted")
    tracer = Tracer(freezepoint.name)
    yield tracer
    tracer.remove()


def end(freezepoint, running):
    stop = freezepoint.directory / "stop"
    stop.touch()
    assert running.wait() == 7, running.err
    stop.unlink()


@pytest.mark.parametrize("stays", [False, True], ids=["detached", "attached"])
def test_dump_under_a_tracer(freezepoint, tracer, stays):
    running = freezepoint.start_run("--at", f"rand_r#{FIRST}", "--every", EVERY, "--",
                                    APPS / "steady", 1, 1, "quiet")
    tracer.attach(wait_for(
        lambda: next(filter(None, map(preload_of, freezepoint.pids())), None),
        "the preload library"))
    running.wait_for_message(f"checkpoint .* at rand_r#{FIRST} ")
    end(freezepoint, running)
    seen = tracer.events()
    assert seen and seen == [(0, FIRST + turn * EVERY) for turn in range(len(seen))]
    if not stays:
        tracer.detach()
    restored = freezepoint.start_restore(f"{freezepoint.name}@1")
    restored.wait_for_message(f"checkpoint .* at rand_r#{FIRST + EVERY} ")
    end(freezepoint, restored)
    assert ((0, FIRST + EVERY) in tracer.events()[len(seen):]) == stays
