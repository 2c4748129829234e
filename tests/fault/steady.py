"""The program that the fault tests do it to (tests/apps/steady.c), and what has to be
true of it, of its images and of the machine afterwards."""

import contextlib
import os
import re
import signal
import subprocess

from harness import APPS, ROOT, RUNTIME, children_of, comm_of, state_of, tracer_of, wait_for

STEADY = APPS / "steady"
POINT = "rand_r#10"
END_STATUS = 7


class Steady:
    """One job that runs it, in the test's directory."""

    def __init__(self, freezepoint):
        self.tool = freezepoint
        self.progress = freezepoint.directory / "progress"
        self.stop_file = freezepoint.directory / "stop"
        self.running = None

    # -- starting --

    def words(self, megabytes=1, threads=2, quiet=False):
        return ["--", STEADY, megabytes, threads, *(["quiet"] if quiet else [])]

    def run(self, *options, at=POINT, fault=None, criu=None, **size):
        with self._environment(fault, criu):
            self.running = self.tool.start_run("--restore", "never", "--at", at, *options,
                                               *self.words(**size))
        return self.running

    def run_warm(self, *options, at=POINT, fault=None, criu=None, **size):
        with self._environment(fault, criu):
            self.running = self.tool.start_run("--at", at, *options, *self.words(**size))
        return self.running

    def restore(self, *options, fault=None, criu=None):
        with self._environment(fault, criu):
            self.running = self.tool.start_restore(*options, self.tool.name)
        return self.running

    @contextlib.contextmanager
    def _environment(self, fault, criu):
        changes = {"FREEZEPOINT_FAULT": fault, "FREEZEPOINT_CRIU": criu}
        self.tool.env.update({key: str(value) for key, value in changes.items() if value})
        yield
        for key in changes:
            self.tool.env.pop(key, None)

    def make_image(self):
        """An image to restore, and an older generation to be kept whole."""
        self.run("--then", "stop")
        assert self.running.wait() == 0, self.running.err
        self.forget_progress()

    def forget_progress(self):
        """The file itself stays: a restored program has it open."""
        os.truncate(self.progress, 0)

    # -- its processes --

    def app(self):
        """The pid of the program."""
        return next((pid for pid in self.tool.pids() if comm_of(pid) == "steady"), None)

    def worker(self):
        """CRIU's main process."""
        below = [self.running.pid, *children_of(self.running.pid)]
        return next((pid for parent in below for pid in children_of(parent)
                     if comm_of(pid) == "criu"), None)

    def keeper(self):
        return next(iter(self.tool.keepers(self.running.pid)), None)

    def init(self):
        return next((pid for pid in children_of(self.running.pid)
                     if comm_of(pid) == "freezepoint-ini"), None)

    def wait_until_stopped(self):
        """Until the supervisor stands still at its fault point."""
        def stopped():
            assert self.running.running(), f"ended before the fault point:\n{self.running.err}"
            return state_of(self.running.pid) == "T"
        wait_for(stopped, "the fault point to be reached")

    # -- what it does --

    def ticks(self):
        try:
            lines = self.progress.read_text().split("\n")[:-1]
        except FileNotFoundError:
            return []
        return [int(line.split()[1]) for line in lines]

    def output_ticks(self):
        return [int(number) for number in re.findall(r"^tick (\d+) \d+\n", self.running.out, re.M)]

    def longest_call_ms(self, since_tick):
        """The longest that one call took, after that tick."""
        found = re.findall(r"^tick (\d+) (\d+)$", self.progress.read_text(), re.M)
        return max(int(worst) for tick, worst in found if int(tick) > since_tick) / 1000

    def assert_well(self, output=True):
        """It runs, thawed and untraced, makes progress, and its output flows."""
        pid = wait_for(self.app, "the program")
        wait_for(lambda: not self.tool.is_frozen(), "the group to be thawed")
        wait_for(lambda: all(tracer_of(task) == 0 for task in tasks_of(pid)), "no tracer")
        self.assert_progress()
        if output:
            before = self.output_ticks()[-1:]
            wait_for(lambda: self.output_ticks()[-1:] > before, "its output to go on")
        assert state_of(pid) in "RSD", f"it is in state {state_of(pid)}"

    def assert_progress(self):
        before = len(self.ticks())
        wait_for(lambda: len(self.ticks()) > before + 3, "the program to go on")

    def end(self):
        """Has it end by itself; its status, where freezepoint is still there to tell."""
        self.stop_file.touch()
        killed = self.running.process.returncode == -signal.SIGKILL
        status = None if killed else self.running.wait()
        wait_for(lambda: not self.tool.group().exists(), "the group to go")
        wait_for(lambda: not (RUNTIME / self.tool.name).exists(), "the runtime directory to go")
        self.stop_file.unlink()
        return status

    def assert_images(self, *expected):
        """These generations, each whole, and no other."""
        assert self.tool.generations() == list(expected)
        for generation in expected:
            spec = f"{self.tool.name}@{generation}"
            done = self.tool.call(self.tool.command("verify", "--images", self.tool.store, spec))
            assert done.returncode == 0, done.stderr
        if expected:
            latest = self.tool.store / self.tool.name / "latest"
            assert int(os.readlink(latest)) in expected


def tasks_of(pid):
    try:
        return [int(task) for task in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def kill(pid):
    with contextlib.suppress(ProcessLookupError):  # CRIU may just have ended by itself
        os.kill(pid, signal.SIGKILL)
    # Its files are closed with the last of its threads; a traced one is not reaped at once.
    wait_for(lambda: all(state_of(task) in ("", "X", "Z") for task in [pid, *tasks_of(pid)]),
             f"process {pid} to die")


def wake(pid):
    """After a fault point's stop."""
    os.kill(pid, signal.SIGCONT)


def find_criu():
    """The CRIU that was found when freezepoint was built."""
    text = (ROOT / "build" / "setup.mk").read_text()
    return ROOT / re.search(r"^CRIU := (\S+)$", text, re.M).group(1)


def wrap_criu(tool, body):
    """A program in CRIU's place: `body` is shell text, with $CRIU the real one."""
    path = tool.directory / "criu-wrapper"
    path.write_text(f"#!/bin/sh\nCRIU={find_criu()}\n{body}\n")
    path.chmod(0o755)
    return path


@contextlib.contextmanager
def mounted(directory, options, kind="tmpfs"):
    """A file system of its own at `directory`."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, "-o", options, kind, directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)
