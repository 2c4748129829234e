"""`freezepoint ps`: what it tells of running jobs, once and again and again."""

import contextlib
import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import time

import pexpect
import pytest

from harness import APPS, PROGRAM, PYTHON, RUNTIME, comm_of, state_of, wait_for
from terminal import Terminal

TITLES = ["JOB", "STATE", "PID", "GEN", "POINTS", "CKPT", "MEM", "PSI-CPU", "PSI-MEM", "PSI-IO",
          "PAUSE"]

# Calls the point whenever a line comes in; ends with the last.
ECHOER = """
import os, sys
print("ready", flush=True)
for line in sys.stdin:
    os.times()
    print("did", line.strip(), flush=True)
"""


class Echoer:
    """A job whose point is hit when it is told to."""

    def __init__(self, freezepoint, directory):
        self.tool = freezepoint
        self.input = self.running = None
        (directory / "echoer.py").write_text(ECHOER)

    def run(self, *options):
        self._start(self.tool.run_words("--restore", "never", "--at", "times", *options, "--",
                                        PYTHON, "echoer.py"))
        self.running.wait_for_output("ready")

    def restore(self, spec):
        self._start(self.tool.restore_words(spec))
        self.running.wait_for_message("restored")

    def _start(self, command):
        theirs, self.input = os.pipe()
        self.running = self.tool.start(command, stdin=theirs)
        os.close(theirs)

    def hit(self, word="it"):
        os.write(self.input, f"{word}\n".encode())
        self.running.wait_for_output(f"did {word}\n")

    def end(self):
        """Its input ends."""
        os.close(self.input)
        self.input = None
        if self.running.process.returncode is None:
            assert self.running.wait() == 0, self.running.err

    def close(self):
        if self.input is not None:
            os.close(self.input)


@pytest.fixture
def echoer(freezepoint, directory):
    echoer = Echoer(freezepoint, directory)
    yield echoer
    echoer.close()


def ps(tool, *words, **keywords):
    return tool.call(tool.command("ps", *words), **keywords)


def listed(tool, name=None):
    """The job's object, or None where it is not listed; others' jobs may be there, too."""
    done = ps(tool, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return next((job for job in json.loads(done.stdout) if job["name"] == (name or tool.name)), None)


def row(tool):
    """The job's row of the table: text by title."""
    done = ps(tool)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == TITLES
    cells = [re.split(r"  +", line.strip()) for line in lines[1:]]
    found, = [dict(zip(TITLES, words)) for words in cells if words[0] == tool.name]
    return found


def wait_until(tool, **expected):
    """Until it is listed so: what a supervisor counts is told a moment later."""
    def matches():
        job = listed(tool)
        return job if job and all(job[key] == value for key, value in expected.items()) else None
    return wait_for(matches, f"the job to be listed with {expected}")


# -- the states of a job --


def test_running(echoer, freezepoint):
    before = time.time()
    echoer.run()
    job = wait_until(freezepoint, state="running")
    assert comm_of(job["pid"]).startswith("python3") and freezepoint.pids() == [job["pid"]]
    assert job["supervisor_pid"] == echoer.running.pid
    assert job["frozen"] is False and job["processes"] == 1 and job["problem"] is None
    assert job["points_hit"] == job["checkpoints"] == job["failures"] == 0
    assert job["generation"] is job["restored_from"] is job["last_pause_ms"] is None
    assert job["command"] == [PYTHON, "echoer.py"] and job["image"] == freezepoint.name
    assert before - 1 < job["started_unix_ns"] / 1e9 < time.time() + 1
    assert 10 ** 6 < job["memory_bytes"] < 10 ** 9
    assert job["memory_source"] in ("group", "pss", "rss")
    cells = row(freezepoint)
    assert cells["STATE"] == "running" and cells["PID"] == str(job["pid"])
    assert (cells["GEN"], cells["POINTS"], cells["CKPT"], cells["PAUSE"]) == ("-", "0", "0", "-")
    assert re.fullmatch(r"[\d.]+ [kM]B", cells["MEM"])
    echoer.end()
    assert listed(freezepoint) is None


def test_pressure(echoer, freezepoint):
    echoer.run()
    job = wait_until(freezepoint, state="running")
    cells = row(freezepoint)
    for resource, title in (("cpu", "PSI-CPU"), ("memory", "PSI-MEM"), ("io", "PSI-IO")):
        if not (freezepoint.group() / f"{resource}.pressure").exists():
            assert job["pressure"][resource]["some"] is None and cells[title] == "?"
            continue
        for stall in job["pressure"][resource].values():
            assert set(stall) == {"avg10", "avg60", "avg300", "total_us"}
            assert all(0 <= stall[average] <= 100 for average in ("avg10", "avg60", "avg300"))
        assert re.fullmatch(r"\d+\.\d/(\d+\.\d|-)", cells[title])
    echoer.end()


def test_checkpoint(echoer, freezepoint):
    echoer.run()
    echoer.hit()
    frozen_ms = float(echoer.running.wait_for_message(r"\(frozen ([\d.]+) ms\)").group(1))
    job = wait_until(freezepoint, checkpoints=1)
    assert (job["state"], job["generation"], job["points_hit"]) == ("running", 1, 1)
    assert job["last_pause_ms"] == pytest.approx(frozen_ms, abs=0.06) and frozen_ms > 0
    cells = row(freezepoint)
    assert (cells["GEN"], cells["POINTS"], cells["CKPT"]) == ("1", "1", "1")
    assert cells["PAUSE"] == f"{frozen_ms} ms"
    echoer.end()


def test_points_without_checkpoints(echoer, freezepoint):
    """Calls that are due, but too many for --max."""
    echoer.run("--every", 1, "--max", 1)
    echoer.hit("a")
    wait_until(freezepoint, checkpoints=1)
    for word in "bcd":
        echoer.hit(word)
    job = wait_until(freezepoint, points_hit=4)
    assert (job["checkpoints"], job["generation"], job["failures"]) == (1, 1, 0)
    echoer.end()


def test_failed_checkpoint(echoer, freezepoint, directory):
    """CRIU cannot dump what it cannot be started for."""
    criu = directory / "no-criu"
    criu.write_text("#!/bin/sh\nexit 1\n")
    criu.chmod(0o755)
    freezepoint.env["FREEZEPOINT_CRIU"] = str(criu)
    echoer.run()
    echoer.hit()
    job = wait_until(freezepoint, failures=1)
    assert (job["checkpoints"], job["generation"], job["points_hit"]) == (0, None, 1)
    assert job["last_pause_ms"] is None
    echoer.end()


def test_restored(echoer, freezepoint):
    echoer.run("--every", 1, "--then", "stop")
    os.write(echoer.input, b"it\n")
    assert echoer.running.wait() == 0
    echoer.close()
    echoer.restore(freezepoint.name)
    job = wait_until(freezepoint, state="restored")
    assert (job["generation"], job["checkpoints"], job["points_hit"]) == (1, 0, 0)
    assert job["restored_from"] == f"{freezepoint.name}@1" and job["last_pause_ms"] is None
    assert job["command"] == [PYTHON, "echoer.py"]
    assert job["pid"] in freezepoint.pids() and comm_of(job["pid"]).startswith("python3")
    assert row(freezepoint)["GEN"] == "1"
    echoer.running.wait_for_output("did it")
    echoer.hit("again")
    job = wait_until(freezepoint, checkpoints=1)
    assert (job["state"], job["generation"]) == ("restored", 2) and job["last_pause_ms"] > 0
    assert job["restored_from"] == f"{freezepoint.name}@1"
    echoer.end()


def test_orphaned(echoer, freezepoint):
    echoer.run()
    echoer.hit()
    wait_until(freezepoint, checkpoints=1)
    echoer.running.signal(signal.SIGKILL)
    echoer.running.wait()
    job = wait_until(freezepoint, state="orphaned")
    assert comm_of(job["pid"]).startswith("python3")
    assert (job["checkpoints"], job["generation"]) == (1, 1)
    assert row(freezepoint)["STATE"] == "orphaned"
    echoer.end()
    wait_for(lambda: not (RUNTIME / freezepoint.name).exists(), "the keeper to clean up")
    assert listed(freezepoint) is None


def test_orphaned_without_its_keeper(freezepoint):
    """Nobody holds its lock."""
    running = freezepoint.start_run("--", "sleep", 1000)
    wait_until(freezepoint, state="running")
    keeper, = freezepoint.keepers(running.pid)
    for pid in (running.pid, keeper):
        os.kill(pid, signal.SIGKILL)
    running.wait()
    wait_until(freezepoint, state="orphaned")
    for pid in freezepoint.pids():
        os.kill(pid, signal.SIGTERM)
    # Nobody is left to remove what it had; with nothing in it it is no job.
    wait_for(lambda: listed(freezepoint) is None, "the job not to be listed")
    assert (RUNTIME / freezepoint.name / "status").exists()
    assert freezepoint.run("--", "true").returncode == 0  # takes it over, and leaves nothing


def test_frozen(echoer, freezepoint):
    echoer.run()
    (freezepoint.group() / "cgroup.freeze").write_text("1")
    job = wait_until(freezepoint, state="frozen")
    assert job["frozen"] is True and job["memory_bytes"] > 0
    assert row(freezepoint)["STATE"] == "frozen"
    (freezepoint.group() / "cgroup.freeze").write_text("0")
    wait_until(freezepoint, state="running", frozen=False)
    echoer.end()


def test_stopped(freezepoint, directory):
    """As ^Z does it."""
    terminal = Terminal(directory, freezepoint.env)
    terminal.start(freezepoint.run_words("--", "sleep", 1000))
    wait_until(freezepoint, state="running")
    terminal.key("z")
    terminal.wait_for_shell()
    wait_until(freezepoint, state="stopped")
    terminal.line("fg")
    wait_until(freezepoint, state="running")
    terminal.key("c")
    terminal.expect_prompt()
    terminal.close()


def test_starting(freezepoint):
    """Before there is a program."""
    freezepoint.env["FREEZEPOINT_FAULT"] = "start:keeper=stop"
    running = freezepoint.start_run("--", "true")
    wait_for(lambda: state_of(running.pid) == "T", "the fault point to be reached")
    job = listed(freezepoint)
    assert (job["state"], job["pid"], job["processes"]) == ("starting", None, 0)
    assert job["supervisor_pid"] == running.pid and job["command"] is None
    assert row(freezepoint)["PID"] == "-"
    running.signal(signal.SIGCONT)
    assert running.wait() == 0


def test_tree(freezepoint):
    """Several processes: the first of them is told, and all are measured."""
    running = freezepoint.start_run("--", PYTHON, "-c", """
import os, time
block = bytearray(os.urandom(30_000_000))
for _ in range(3):
    if os.fork() == 0:
        time.sleep(1000)
        os._exit(0)
print("forked", flush=True)
time.sleep(1000)
""")
    running.wait_for_output("forked")
    job = wait_until(freezepoint, state="running", processes=4)
    assert job["pid"] == min(freezepoint.pids())
    # What they share is there once.
    assert 30_000_000 < job["memory_bytes"] < 60_000_000 or job["memory_source"] != "pss"
    freezepoint.clean_up()


# -- what it tells is damaged or not there --


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x89FZSTAT\n" + b"\xff" * 100, None])
def test_damaged_status(echoer, freezepoint, content):
    """What can be seen without it is told all the same."""
    echoer.run()
    wait_until(freezepoint, state="running")
    status = RUNTIME / freezepoint.name / "status"
    assert status.stat().st_mode & 0o777 == 0o600
    if content is None:
        status.unlink()
    else:
        status.write_bytes(content)
    job = listed(freezepoint)
    assert job["state"] == "unknown" and job["checkpoints"] is job["command"] is None
    assert [job["pid"]] == freezepoint.pids() and job["memory_bytes"] > 0
    assert (job["problem"] is None) == (content is None)
    cells = row(freezepoint)
    assert [cells[title] for title in ("STATE", "GEN", "POINTS", "CKPT", "PAUSE")] == ["?"] * 5
    assert cells["PID"] == str(job["pid"])
    echoer.hit()  # and is written again
    wait_until(freezepoint, state="running", checkpoints=1)
    echoer.end()


def test_directory_that_nobody_holds(freezepoint):
    stale = RUNTIME / freezepoint.name
    stale.mkdir(parents=True)
    (stale / "lock").touch()
    try:
        assert listed(freezepoint) is None
        with open(stale / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert listed(freezepoint)["state"] == "starting"
        assert listed(freezepoint) is None
    finally:
        shutil.rmtree(stale)


def test_looking_refuses_nobody_the_name(freezepoint):
    """Who looks has the lock for a moment."""
    stop = time.monotonic() + 2
    watchers = [subprocess.Popen(["sh", "-c", f"while [ ! -e done ]; do {PROGRAM} ps; done"],
                                 stdout=subprocess.DEVNULL, cwd=freezepoint.directory)
                for _ in range(2)]
    try:
        while time.monotonic() < stop:
            assert freezepoint.run("--", "true").returncode == 0
    finally:
        (freezepoint.directory / "done").touch()
        for watcher in watchers:
            watcher.wait(20)


def test_another_user(echoer, freezepoint, directory):
    """One line that says what is missing."""
    echoer.run()
    program = directory / "freezepoint"
    shutil.copy(PROGRAM, program)
    directory.chmod(0o755)
    done = subprocess.run([program, "ps"], user=pwd.getpwnam("nobody").pw_uid, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (77, "", 1)
    assert str(RUNTIME) in done.stderr and "sudo" in done.stderr
    echoer.end()


@contextlib.contextmanager
def without_jobs():
    """Words before a command, for which nobody has a job."""
    hidden = f"mount --make-rprivate / && mount -t tmpfs none {RUNTIME} && exec \"$@\""
    RUNTIME.mkdir(exist_ok=True)
    yield ["unshare", "--mount", "sh", "-c", hidden, "sh"]


def test_no_jobs(freezepoint):
    with without_jobs() as words:
        done = freezepoint.call([*words, PROGRAM, "ps"])
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.split() == TITLES and done.stdout.count("\n") == 1
        done = freezepoint.call([*words, PROGRAM, "ps", "--json"])
        assert (done.returncode, json.loads(done.stdout)) == (0, [])


# -- --watch --


def test_watch_to_a_pipe(echoer, freezepoint):
    """Tables with an empty line between them, until nobody reads."""
    echoer.run()
    wait_until(freezepoint, state="running")
    words = freezepoint.command("ps", "--watch", "--interval", "200ms")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watching:
        try:
            tables = []
            for _ in range(2):
                lines = list(iter(lambda: watching.stdout.readline().rstrip("\n"), ""))
                tables.append(lines)
            assert all(table[0].split() == TITLES for table in tables)
            assert all(any(line.split()[:2] == [freezepoint.name, "running"] for line in table)
                       for table in tables)
            watching.stdout.close()
            assert watching.wait(20) == 0
        finally:
            watching.kill()
    echoer.end()


def test_watch_ends_with_its_reader_at_once(freezepoint):
    words = freezepoint.command("ps", "--watch", "--interval", "1m")
    with subprocess.Popen(words, stdout=subprocess.PIPE) as watching:
        try:
            assert watching.stdout.readline().split()[0] == b"JOB"
            watching.stdout.close()
            assert watching.wait(20) == 0
        finally:
            watching.kill()


def test_watch_json(echoer, freezepoint):
    """A document on each line; the second knows of what happened meanwhile."""
    echoer.run()
    wait_until(freezepoint, state="running")
    words = freezepoint.command("ps", "--watch", "--json", "--interval", "100ms")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watching:
        try:
            def next_job():
                jobs = json.loads(watching.stdout.readline())
                return next(job for job in jobs if job["name"] == freezepoint.name)
            assert next_job()["checkpoints"] == 0
            echoer.hit()
            wait_for(lambda: next_job()["checkpoints"] == 1, "the checkpoint to be told", interval=0)
            watching.send_signal(signal.SIGINT)
            assert watching.wait(20) == 0
        finally:
            watching.kill()
    echoer.end()


def test_watch_whose_reader_reads_nothing_ends_with_a_signal(freezepoint):
    with without_jobs() as words:
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        watching = subprocess.Popen([*words, PROGRAM, "ps", "--watch", "--json", "--interval", "100ms"],
                                    stdout=writer)
        os.write(writer, b"x" * 4096)
        os.close(writer)
        try:
            time.sleep(0.5)
            watching.send_signal(signal.SIGTERM)
            assert watching.wait(20) == -signal.SIGTERM
        finally:
            watching.kill()
            watching.wait()
            os.close(reader)


def watch_on_terminal(freezepoint, *words, term="xterm", size=(24, 120)):
    return pexpect.spawn(str(PROGRAM), ["ps", "--watch", *words], dimensions=size, timeout=20,
                         env=dict(freezepoint.env, TERM=term), encoding="utf-8")


TAKEN, GIVEN_BACK = r"\x1b\[\?1049h\x1b\[\?25l", r"\x1b\[\?25h\x1b\[\?1049l"


def test_watch_on_a_terminal(echoer, freezepoint):
    """In place; ^C puts the terminal right."""
    echoer.run()
    wait_until(freezepoint, state="running")
    terminal = watch_on_terminal(freezepoint)
    try:
        terminal.expect(TAKEN)
        for _ in range(2):  # one second between them
            terminal.expect(r"\x1b\[H\x1b\[KJOB  ")
            terminal.expect(rf"\x1b\[K{freezepoint.name} +running [^\n]*\n")
            terminal.expect(r"\x1b\[J")
        terminal.sendintr()
        terminal.expect(GIVEN_BACK)
        terminal.expect(pexpect.EOF)
        assert terminal.before == ""
        terminal.close()
        assert (terminal.exitstatus, terminal.signalstatus) == (0, None)
    finally:
        terminal.close(force=True)
    echoer.end()


def test_watch_ended_by_another_signal_puts_the_terminal_right(freezepoint):
    terminal = watch_on_terminal(freezepoint)
    try:
        terminal.expect(r"\x1b\[J")
        terminal.kill(signal.SIGTERM)
        terminal.expect(GIVEN_BACK)
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.signalstatus == signal.SIGTERM
    finally:
        terminal.close(force=True)


@pytest.mark.parametrize("room", [0, 1000])
def test_watch_on_a_terminal_that_takes_nothing_ends_with_a_signal(freezepoint, room):
    """As one does whose window hangs; with some room a write that would wait has begun."""
    reader, terminal = os.openpty()
    with open(os.open(os.ttyname(terminal), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY), "wb",
              buffering=0) as filler:
        while filler.write(b"x" * 256):
            pass
    os.read(reader, room)
    watching = subprocess.Popen(freezepoint.command("ps", "--watch", "--interval", "100ms"),
                                stdout=terminal, env=dict(freezepoint.env, TERM="xterm"))
    try:
        time.sleep(2)
        watching.send_signal(signal.SIGTERM)
        assert watching.wait(10) == -signal.SIGTERM
    finally:
        os.close(reader)  # a hang-up, which ends what waits for it
        watching.kill()
        watching.wait()
        os.close(terminal)


def test_watch_on_a_narrow_terminal(echoer, freezepoint):
    """No line goes on in the next."""
    echoer.run()
    wait_until(freezepoint, state="running")
    terminal = watch_on_terminal(freezepoint, size=(3, 20))
    try:
        terminal.expect(r"\x1b\[H(.*)\x1b\[J")
        lines = terminal.match.group(1).split("\x1b[K")[1:]
        assert lines[0][:3] == "JOB" and len(lines) == 2
        assert all(len(line.rstrip("\r\n")) <= 20 for line in lines)
    finally:
        terminal.close(force=True)
    echoer.end()


def test_watch_on_a_terminal_that_can_do_nothing(freezepoint):
    terminal = watch_on_terminal(freezepoint, "--interval", "100ms", term="dumb")
    try:
        terminal.expect("JOB .*JOB ")
        assert "\x1b" not in terminal.before + terminal.match.group(0)
        terminal.sendintr()
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == 0
    finally:
        terminal.close(force=True)


def test_stopped_watch(freezepoint, directory):
    """^Z gives the shell its screen back, and fg takes it again."""
    terminal = Terminal(directory, freezepoint.env)
    terminal.line(f"TERM=xterm {PROGRAM} ps --watch")
    terminal.expect(TAKEN)
    terminal.expect("JOB ")
    terminal.key("z")
    terminal.expect(GIVEN_BACK)
    terminal.wait_for_shell()
    terminal.expect_prompt()
    terminal.line("fg")
    terminal.expect(TAKEN)
    terminal.expect("JOB ")
    terminal.key("c")
    terminal.expect(GIVEN_BACK)
    terminal.expect_prompt()
    assert terminal.status() == 0
    terminal.close()


# -- usage --


@pytest.mark.parametrize("words", [
    ["--interval", "1s"], ["--watch", "--interval", "0"], ["--watch", "--interval", "99ms"],
    ["--watch", "--interval", "x"], ["--watch", "--interval", "-1s"],
    ["--watch", "--interval", "1h"], ["--watch", "--interval", "2000m"],
    ["--watch", "--interval", "99999999999999999999s"], ["--watch", "--interval", ""], ["JOB"],
])
def test_usage(freezepoint, words):
    done = ps(freezepoint, *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done


def test_full_disk(freezepoint):
    with open("/dev/full", "w") as full:
        for words in (["ps"], ["ps", "--watch"]):
            done = subprocess.run(freezepoint.command(*words), stdout=full, stderr=subprocess.PIPE,
                                  text=True, timeout=20)
            assert done.returncode == 1
