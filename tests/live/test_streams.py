"""Streams, signals, statuses and surroundings: a program under freezepoint cannot
tell, and its caller cannot either, that it is not started directly."""

import hashlib
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import time

import pytest

from harness import PYTHON, state_of, wait_for

REPORT = """
import json, os, resource, sys

def status_of(names):
    with open("/proc/self/status") as status:
        fields = dict(line.rstrip().split(":", 1) for line in status)
    return {name: fields[name].strip() for name in names}

def opened():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink("/proc/self/fd/" + name)
        except OSError:
            pass  # the directory's own
    return {fd: what for fd, what in found.items() if int(fd) > 2}

umask = os.umask(0)
limits = {name: resource.getrlimit(getattr(resource, name))
          for name in dir(resource) if name.startswith("RLIMIT_")}
print(json.dumps({
    "environment": dict(os.environ), "directory": os.getcwd(), "umask": umask,
    "nice": os.getpriority(os.PRIO_PROCESS, 0), "limits": limits,
    "descriptors": opened(), "arguments": sys.argv[1:],
    "scheduler": os.sched_getscheduler(0), "affinity": sorted(os.sched_getaffinity(0)),
    "status": status_of(["SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "CapEff", "CapBnd",
                         "Uid", "Gid", "Groups"]),
    "oom": open("/proc/self/oom_score_adj").read(),
}))
"""

NAMES_OF_SIGNALS = ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM"]

# Not pause(): a signal between two of Python's instructions would be noted but not
# handled until the next one.
SIGNAL_LOGGER = """
import os, signal, sys, time

def note(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(7)

for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), note)
os.times()
while True:
    time.sleep(0.02)
"""


def without(words, *descriptors):
    """A command that starts with these of 0, 1 and 2 closed."""
    closing = " ".join(f"{fd}<&-" for fd in descriptors)
    return ["sh", "-c", f'exec "$@" {closing}', "sh", *map(str, words)]


# -- pass-through --


@pytest.mark.parametrize("kind", ["pipe", "file", "null", "closed"])
def test_input(freezepoint, directory, kind):
    words = freezepoint.run_words("--", "sh", "-c", "cat; echo end $?")
    (directory / "input").write_text("a line\nand half a line")
    if kind == "pipe":
        done = freezepoint.call(words, stdin=None, input="a line\nand half a line")
    elif kind == "file":
        with open(directory / "input") as stream:
            done = freezepoint.call(words, stdin=stream)
    elif kind == "null":
        done = freezepoint.call(words)
    else:
        done = freezepoint.call(without(words, 0))
    expected = "a line\nand half a line" if kind in ("pipe", "file") else ""
    assert (done.returncode, done.stdout) == (0, expected + "end 0\n")
    assert done.stderr == ""


@pytest.mark.parametrize("kind", ["pipe", "file", "append", "null", "closed"])
def test_output(freezepoint, directory, kind):
    words = freezepoint.run_words("--", "sh", "-c", "echo out; echo err >&2; exit 4")
    path = directory / "output"
    path.write_text("before\n")
    if kind == "pipe":
        done = freezepoint.call(words)
        assert (done.stdout, done.stderr) == ("out\n", "err\n")
    elif kind in ("file", "append"):
        with open(path, "w" if kind == "file" else "a") as stream:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=stream,
                                  stderr=subprocess.PIPE, cwd=directory, timeout=30)
        assert path.read_text() == ("before\n" if kind == "append" else "") + "out\n"
        assert done.stderr == b"err\n"
    elif kind == "null":
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, cwd=directory, timeout=30)
    else:
        done = freezepoint.call(without(words, 0, 1, 2))
        assert done.stdout + done.stderr == ""
    assert done.returncode == 4


@pytest.mark.limit(120)
def test_a_hundred_megabytes_both_ways(freezepoint, directory):
    block = hashlib.sha256(b"seed").digest() * 32768  # 1 MiB
    wanted = hashlib.sha256()
    got = hashlib.sha256()
    process = subprocess.Popen(freezepoint.run_words("--at", "read#400", "--", "cat"),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, cwd=directory)
    feeder = os.fork()
    if feeder == 0:
        process.stdout.close()
        for number in range(100):
            process.stdin.write(bytes([number]) + block)
        process.stdin.flush()
        os._exit(0)
    process.stdin.close()
    for number in range(100):
        wanted.update(bytes([number]) + block)
    while chunk := process.stdout.read(1 << 20):
        got.update(chunk)
    assert os.waitpid(feeder, 0)[1] == 0
    said = process.stderr.read().decode()
    assert process.wait(30) == 0, said
    assert got.digest() == wanted.digest()
    assert "checkpoint " in said and freezepoint.generations() == [1]


def test_order_of_output_and_errors_in_one_file(freezepoint, directory):
    script = "for i in $(seq 300); do echo out $i; echo err $i >&2; done"
    path = directory / "both"
    with open(path, "wb") as stream:
        done = subprocess.run(freezepoint.run_words("--", "sh", "-c", script),
                              stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                              cwd=directory, timeout=60)
    assert done.returncode == 0
    expected = "".join(f"out {i}\nerr {i}\n" for i in range(1, 301))
    assert path.read_text() == expected


def test_end_of_input_reaches_a_running_program(freezepoint, directory):
    program = ("import sys\nfor line in sys.stdin: print('read', line.strip(), flush=True)\n"
               "print('end of input', flush=True)")
    process = subprocess.Popen(freezepoint.run_words("--", PYTHON, "-c", program),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=directory)
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"read one\n"
    process.stdin.close()
    assert process.stdout.read() == b"end of input\n"
    assert process.wait(20) == 0


def test_a_gone_reader_is_noticed(freezepoint, directory):
    process = subprocess.Popen(freezepoint.run_words("--", "yes"), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, cwd=directory)
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    assert process.wait(20) == 128 + signal.SIGPIPE
    program = ("import errno, os, signal, sys\nsignal.signal(signal.SIGPIPE, signal.SIG_IGN)\n"
               "try:\n    while True: os.write(1, b'y' * 4096)\n"
               "except OSError as error: sys.exit(50 + (error.errno == errno.EPIPE))\n")
    process = subprocess.Popen(freezepoint.run_words("--", PYTHON, "-c", program),
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=directory)
    process.stdout.close()
    assert process.wait(20) == 51


def test_a_program_that_closes_its_output_is_noticed(freezepoint, directory):
    process = subprocess.Popen(
        freezepoint.run_words("--", "sh", "-c", "echo last; exec >&-; read word; exit 6"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=directory)
    assert process.stdout.read() == b"last\n"  # up to its end, while the program runs
    assert process.poll() is None
    process.stdin.write(b"go\n")
    process.stdin.flush()
    assert process.wait(20) == 6
    process.stdin.close()


def test_a_program_that_does_not_read_does_not_hold_up_the_end(freezepoint, directory):
    """Its input stays open and full, and it ends."""
    process = subprocess.Popen(freezepoint.run_words("--", "sh", "-c", "exit 2"),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=directory)
    assert process.wait(20) == 2
    process.stdin.close()
    process.stdout.close()


# -- statuses --


@pytest.mark.parametrize("script, status", [
    ("exit 0", 0), ("exit 3", 3), ("exit 255", 255),
    ("kill -SEGV $$", 139), ("kill -KILL $$", 137), ("kill -ABRT $$", 134), ("kill -TERM $$", 143),
    ("kill -PIPE $$", 141), ("(sleep 0.2; exit 9) & exit 5", 5),
])
def test_exit_status(freezepoint, script, status):
    done = freezepoint.run("--", "bash", "-c", f"ulimit -c 0; {script}")
    assert done.returncode == status and done.stdout + done.stderr == ""


@pytest.mark.parametrize("script, status", [
    ("exit 3", 3), ("kill -SEGV $$", 139), ("kill -KILL $$", 137), ("kill -TERM $$", 143),
])
def test_exit_status_of_a_restored_program(freezepoint, script, status):
    words = ("--at", "fork", "--then", "stop", "--", "bash", "-c", f"ulimit -c 0; (:); {script}")
    assert freezepoint.run(*words).returncode == 0
    assert freezepoint.restore(freezepoint.name).returncode == status


def test_commands_that_cannot_be_started(freezepoint, directory):
    (directory / "plain").write_text("no program\n")
    (directory / "odd").write_bytes(b"\x7fELF but no more")
    (directory / "odd").chmod(0o755)
    (directory / "lost").write_text("#!/no/such/interpreter\n")
    (directory / "lost").chmod(0o755)
    cases = [("no-such-command", 127), ("./no/such/file", 127), ("./plain", 126), ("/etc", 126),
             ("./odd", 126), ("./lost", 127)]
    for command, status in cases:
        for point in ((), ("--at", "listen")):
            done = freezepoint.run(*point, "--", command)
            assert done.returncode == status, (command, point, done.stderr)
            assert done.stderr.count("\n") == 1 and "cannot run '" in done.stderr
    assert freezepoint.images() == []


# -- signals --


@pytest.mark.parametrize("restored", [False, True])
def test_signals_are_passed_on(freezepoint, directory, restored):
    (directory / "logger.py").write_text(SIGNAL_LOGGER)
    words = ("--at", "times", "--", PYTHON, "logger.py", *NAMES_OF_SIGNALS)
    running = freezepoint.start_run(*words)
    running.wait_for_message("checkpoint ")
    if restored:
        assert running.terminate() == 7
        running = freezepoint.start_restore(freezepoint.name)
        running.wait_for_message("restored ")
    for name in NAMES_OF_SIGNALS[1:]:
        running.signal(getattr(signal, name))
        running.wait_for_output(f"got {name}\n")
    assert running.terminate() == 7
    assert running.out.endswith("got SIGTERM\n")


def test_a_signal_that_the_program_does_not_expect_ends_it(freezepoint):
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        running = freezepoint.start_run("--", "sh", "-c", "echo ready; exec sleep 60")
        running.wait_for_output("ready")
        running.signal(number)
        assert running.wait() == 128 + number


def test_nohup(freezepoint, directory):
    words = ["nohup", *freezepoint.run_words("--", "sh", "-c", "echo ready; exec sleep 60")]
    running = freezepoint.start(words)
    running.wait_for_output("ready")
    running.signal(signal.SIGHUP)
    time.sleep(0.3)
    assert running.running() and freezepoint.pids()
    assert running.terminate() == 128 + signal.SIGTERM


def test_suspended_and_continued_from_outside(freezepoint):
    """Without a terminal: SIGTSTP stops the program too, SIGCONT continues both."""
    running = freezepoint.start_run(
        "--", "bash", "-c", "echo ready; while :; do sleep 0.05; echo tick; done")
    running.wait_for_output("tick")
    app = freezepoint.pids()[0]
    running.signal(signal.SIGSTOP)
    wait_for(lambda: state_of(running.pid) == "T", "freezepoint to stop")
    assert state_of(app) in "SR"  # as with any parent
    running.signal(signal.SIGCONT)
    size = len(running.out)
    wait_for(lambda: len(running.out) > size + 20, "output to go on")
    assert running.terminate() == 128 + signal.SIGTERM


# -- surroundings --


def report_of(words, directory, env, pass_fds, **keywords):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, cwd=directory,
                          env=env, pass_fds=pass_fds, timeout=60, **keywords)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def prepare():
    os.umask(0o027)
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (217, 1000))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, 8 << 20))
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH, signal.SIGRTMIN])


def test_what_env_starts(freezepoint):
    program = "import os; os.times(); print(os.environ.get('A'), os.environ.get('B'))"
    done = freezepoint.run("--at", "times", "--", "env", "-u", "A", "B=2", PYTHON, "-c", program)
    assert (done.returncode, done.stdout) == (0, "None 2\n")
    assert freezepoint.generations() == [1]
    assert freezepoint.run("--at", "times", "--", "env", "no-such-command").returncode == 127


@pytest.mark.parametrize("point", [(), ("--at", "listen")])
def test_surroundings_are_the_callers(freezepoint, directory, point):
    (directory / "report.py").write_text(REPORT)
    (directory / "input").write_text("x")
    words = [PYTHON, "report.py", "an argument", "", "--help"]
    env = dict(os.environ, ODD="a\nb", EMPTY="", PATH=os.environ["PATH"])
    env.pop("LD_PRELOAD", None)
    with open(directory / "input") as extra:
        keywords = {"pass_fds": (extra.fileno(),), "preexec_fn": prepare}
        plain = report_of(words, directory, env, **keywords)
        ours = report_of(freezepoint.run_words(*point, "--", *words), directory, env, **keywords)
    preload = ours["environment"].pop("LD_PRELOAD")
    assert preload.startswith("/") and ":" not in preload
    for key, value in plain.items():
        assert ours[key] == value, key


def test_the_users_own_preload_is_kept(freezepoint, directory):
    other = pathlib.Path("/lib/x86_64-linux-gnu/libz.so.1")
    freezepoint.env["LD_PRELOAD"] = str(other)
    program = ("import os, re, sys\nos.times()\nmaps = open('/proc/self/maps').read()\n"
               "print(os.environ['LD_PRELOAD'])\nprint('libz.so.1' in maps)")
    done = freezepoint.run("--at", "times", "--", "/usr/bin/python3", "-S", "-c", program)
    assert done.returncode == 0, done.stderr
    preload, mapped = done.stdout.splitlines()
    assert preload.endswith(f":{other}") and mapped == "True"
    assert freezepoint.generations() == [1]


def test_without_a_point(freezepoint):
    done = freezepoint.run("--", PYTHON, "-c", "print('ran')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")
    assert freezepoint.images() == []


def test_streams_of_a_restored_program(freezepoint, directory):
    """Each restored copy has the streams of whoever restores it."""
    program = ("import os, sys\nos.times()\ndata = sys.stdin.read()\n"
               "sys.stdout.write(f'out {data}\\n')\nsys.stderr.write(f'err {data}\\n')")
    first = freezepoint.run("--at", "times", "--", PYTHON, "-c", program, stdin=None, input="one")
    assert first.returncode == 0 and first.stdout == "out one\n"
    second = freezepoint.restore(freezepoint.name, stdin=None, input="two" * 50000)
    assert second.returncode == 0 and second.stdout == "out " + "two" * 50000 + "\n"
    # Its message may stand between any two pieces of what the program writes.
    message = re.compile(r"freezepoint: restored .*\n")
    assert message.sub("", second.stderr) == "err " + "two" * 50000 + "\n"
    with open(directory / "file", "wb") as stream:
        third = subprocess.run(
            without(freezepoint.restore_words(freezepoint.name), 0), stdout=stream, stderr=stream,
            cwd=directory, timeout=30)
    text = (directory / "file").read_text()
    assert third.returncode == 0 and "out \n" in text and "err \n" in text


def test_nothing_is_overwritten_in_a_shared_file(freezepoint, directory):
    """Two streams, which were apart in the image, and freezepoint's own words."""
    program = ("import os, sys\nos.times()\nfor n in range(20000):\n"
               "    os.write(1, b'out %d\\n' % n); os.write(2, b'err %d\\n' % n)")
    first = freezepoint.run("--at", "times", "--", PYTHON, "-c", program)
    assert first.returncode == 0
    for _ in range(3):
        with open(directory / "file", "wb") as stream:
            again = subprocess.run(freezepoint.restore_words(freezepoint.name), stdout=stream,
                                   stderr=stream, cwd=directory, timeout=60)
        assert again.returncode == 0
        lines = (directory / "file").read_text().splitlines()
        assert len(lines) == 2 * 20000 + 1
        assert sum(line.startswith("freezepoint: restored ") for line in lines) == 1
        for name in ("out", "err"):
            mine = [line for line in lines if line.startswith(name)]
            assert mine == [f"{name} {n}" for n in range(20000)]


def test_restored_with_output_closed(freezepoint, directory):
    program = "import os, sys\nos.times()\nprint('x')\nsys.stdout.flush()\nsys.exit(3)"
    assert freezepoint.run("--at", "times", "--", PYTHON, "-c", program).returncode == 3
    done = freezepoint.call(without(freezepoint.restore_words(freezepoint.name), 0, 1))
    assert done.returncode == 3, done.stderr
    done = freezepoint.call(without(freezepoint.restore_words(freezepoint.name), 0, 1, 2))
    assert done.returncode == 3


