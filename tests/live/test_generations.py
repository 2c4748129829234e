"""Images of restored programs: each generation goes on from the one before, older ones
still restore, and several copies run beside each other."""

import collections
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading

import pytest

from harness import APPS, PYTHON, RUNTIME, wait_for

GENERATIONS = 5

# Draws a secret once, and says it beside each number: all come from one start.  A line
# is one write, so that nothing can come between its parts.
COUNTER = """
import os, sys, time
secret = os.urandom(8).hex()
held = []
for number in range(1, int(sys.argv[1]) + 1):
    os.times()
    held.append(number)
    assert held == list(range(1, number + 1))
    os.write(1, f"{secret} {number}\\n".encode())
    time.sleep(float(sys.argv[2]))
sys.exit(9)
"""

# A token goes round three workers; whoever has it calls the point.
RING = """
import os, sys
WORKERS, rounds = 3, int(sys.argv[1])
pipes = [os.pipe() for _ in range(WORKERS + 1)]
for index in range(WORKERS):
    if os.fork() == 0:
        for turn in range(rounds):
            token = int(os.read(pipes[index][0], 16))
            os.times()
            print("worker", index, "turn", turn, "token", token, flush=True)
            os.write(pipes[index + 1][1], b"%d" % (token + 1))
        os._exit(0)
token = 0
for turn in range(rounds):
    os.write(pipes[0][1], b"%d" % token)
    token = int(os.read(pipes[WORKERS][0], 16))
for index in range(WORKERS):
    os.wait()
print("token", token)
"""

# Each subshell forks for every sleep, which its own counter counts.
SHELLS = """
repeat() { for turn in 1 2 3 4 5 6; do echo $1 $turn; sleep 0.01; done; exit 5; }
repeat a & a=$!
repeat b & b=$!
wait $a; first=$?; wait $b; echo both ended: $first $?
"""
SHELLS_SAY = sorted([f"{shell} {turn}" for shell in "ab" for turn in range(1, 7)]
                    + ["both ended: 5 5"])


# The child has hit nothing before it executes another program, which does.
EXECUTING = """
import os, sys
wait, end = os.pipe()
if os.fork() == 0:
    os.close(end)
    os.read(wait, 1)
    os.execv(sys.executable, [sys.executable, "-c", "import os; os.times(); print('executed')"])
os.getpgid(0)
os.close(end)
os.wait()
"""


def numbers(output):
    """What a counter said; one secret all over."""
    lines = [line.split() for line in output.splitlines()]
    assert len({secret for secret, _ in lines}) <= 1, output
    return [int(number) for _, number in lines]


def points(freezepoint):
    """How many images there are of each POINT#HIT."""
    return collections.Counter(image["point"] for image in freezepoint.images())


@pytest.fixture
def counter(freezepoint, directory):
    """Words of a run of the counter, that ends with status 9."""
    (directory / "counter.py").write_text(COUNTER)

    def words(last, pause=0):
        return ["--", PYTHON, "counter.py", last, pause]

    return words


def run_to_stop(freezepoint, *words):
    done = freezepoint.run("--then", "stop", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def restore_to_stop(freezepoint, spec):
    done = freezepoint.restore("--then", "stop", spec)
    assert done.returncode == 0 and done.stderr.count("\n") == 2, done.stderr
    return done.stdout


# -- five in a row --


def test_five_generations_of_one_process(freezepoint, counter):
    """All that it says, over five images, is what one run would have said."""
    said = run_to_stop(freezepoint, "--at", "times#10", "--every", 10, *counter(60))
    for generation in range(1, GENERATIONS):
        assert freezepoint.inspect()["generation"] == generation
        assert freezepoint.inspect()["hit"]["hit"] == 10 * generation
        said += restore_to_stop(freezepoint, freezepoint.name)
    assert freezepoint.generations() == list(range(1, GENERATIONS + 1))
    done = freezepoint.restore("--then", "stop", freezepoint.name)
    assert done.returncode == 0
    said += done.stdout
    done = freezepoint.restore(freezepoint.name)
    assert done.returncode == 9
    assert numbers(said + done.stdout) == list(range(1, 61))


def test_strangers_put_no_checkpoint_off(freezepoint, counter):
    """Anybody may connect to the socket; each put-off costs a started CRIU."""
    run_to_stop(freezepoint, "--at", "times#10", "--every", 10, *counter(30, 0.02))
    freezepoint.env["FREEZEPOINT_LOG"] = "debug"
    ended, turned_away = threading.Event(), []

    def connect():
        while not ended.is_set():
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
                with contextlib.suppress(OSError):
                    stranger.connect(str(RUNTIME / freezepoint.name / "control.sock"))
                    stranger.settimeout(0.2)
                    turned_away.append(stranger.recv(1) == b"")

    strangers = threading.Thread(target=connect)
    strangers.start()
    try:
        done = freezepoint.restore("--then", "stop", freezepoint.name)
    finally:
        ended.set()
        strangers.join()
    assert done.returncode == 0 and freezepoint.generations() == [1, 2], done.stderr
    assert "put off" not in done.stderr
    assert turned_away and all(turned_away)


def test_five_generations_of_threads(freezepoint):
    """Any thread may come first, but each of the eight hits makes one image."""
    said = run_to_stop(freezepoint, "--at", "rand_r#20000", "--every", 20000, "--",
                       APPS / "threads", 8, 20000)
    while not said:
        assert freezepoint.inspect()["threads"] > 1
        said = freezepoint.restore("--then", "stop", freezepoint.name).stdout
    assert said == "calls 160000, each seen once\n"
    hits = [int(image["point"].removeprefix("rand_r#")) for image in freezepoint.images()]
    assert sorted(hits) == list(range(20000, 160001, 20000))


def test_five_generations_of_forked_workers(freezepoint, directory):
    """Each worker arms itself again: the images are taken by one after the other."""
    (directory / "ring.py").write_text(RING)
    said = run_to_stop(freezepoint, "--at", "times", "--every", 1, "--", PYTHON, "ring.py", 3)
    for generation in range(1, 9):
        assert freezepoint.inspect()["generation"] == generation
        said += restore_to_stop(freezepoint, freezepoint.name)
    done = freezepoint.restore(freezepoint.name)
    assert done.returncode == 0
    assert said + done.stdout == "".join(
        f"worker {token % 3} turn {token // 3} token {token}\n" for token in range(9)
    ) + "token 9\n"
    takers = [freezepoint.inspect(f"{freezepoint.name}@{generation}")["hit"]
              for generation in freezepoint.generations()]
    assert [taker["hit"] for taker in takers] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    pids = [taker["pid"] for taker in takers]
    assert len(set(pids)) == 3 and pids == pids[:3] * 3
    assert freezepoint.inspect(f"{freezepoint.name}@6")["processes"] == 4


def test_generations_of_a_shell_with_children(freezepoint):
    said = run_to_stop(freezepoint, "--at", "fork#3", "--every", 1, "--", "bash", "-c", SHELLS)
    while "both ended" not in said:
        assert len(freezepoint.generations()) < 12
        done = freezepoint.restore("--then", "stop", freezepoint.name)
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert sorted(said.splitlines()) == SHELLS_SAY
    # The first shell forks once before its third fork, as it counts; the second does not.
    assert sorted(int(image["point"].removeprefix("fork#")) for image in freezepoint.images()) == [
        3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8]


def packet_filter_tables():
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, timeout=20,
                          check=True).stdout


@pytest.mark.parametrize("options", [[], ["--tcp", "established"]], ids=["plain", "tcp"])
def test_workers_that_all_hit_at_once(freezepoint, options):
    """While one is dumped others arm themselves again: each hit makes its image, and
    the dumps that are called off for it leave nothing behind."""
    said = "8 processes, each call executed once\n"
    tables = packet_filter_tables()
    done = freezepoint.run("--at", "rand_r", "--every", 1, *options, "--", APPS / "workers", 8, 3)
    assert (done.returncode, done.stdout) == (0, said)
    assert points(freezepoint) == {f"rand_r#{hit}": 8 for hit in (1, 2, 3)}
    for turn in (1, 2, 3):
        done = freezepoint.restore(f"{freezepoint.name}@1")
        assert (done.returncode, done.stdout) == (0, said)
        assert "failed" not in done.stderr
        assert points(freezepoint) == {
            "rand_r#1": 8 + 7 * turn, "rand_r#2": 8 + 8 * turn, "rand_r#3": 8 + 8 * turn}
    assert packet_filter_tables() == tables


def test_a_hundred_processes_arm_themselves_again(freezepoint):
    said = "100 processes, each call executed once\n"
    done = freezepoint.run("--at", "rand_r#1", "--at", "rand_r#3", "--", APPS / "workers", 100, 3)
    assert (done.returncode, done.stdout) == (0, said)
    freezepoint.env["FREEZEPOINT_LOG"] = "rearm:debug"
    done = freezepoint.restore(f"{freezepoint.name}@1")
    assert (done.returncode, done.stdout) == (0, said)
    assert done.stderr.count("has armed itself") == 100
    assert points(freezepoint) == {"rand_r#1": 1, "rand_r#3": 2}


def test_a_copy_that_ends_at_once_after_its_point(freezepoint):
    """It takes the CRIU that dumped it along, out of its pid namespace."""
    program = ["--", PYTHON, "-c", "import os; os.times(); os._exit(4)"]
    done = freezepoint.run("--at", "times", "--at", "times", "--max", 1, *program)
    assert done.returncode == 4
    for turn in range(2, 22):
        done = freezepoint.restore(f"{freezepoint.name}@1")
        assert done.returncode == 4 and f"checkpoint {freezepoint.name}@{turn} " in done.stderr
    assert freezepoint.restore(freezepoint.name).returncode == 4


# -- older ones --


def test_older_generations(freezepoint, counter):
    done = freezepoint.run("--at", "times#10", "--every", 10, *counter(55))
    assert done.returncode == 9 and numbers(done.stdout) == list(range(1, 56))
    made = GENERATIONS
    assert freezepoint.generations() == list(range(1, made + 1))
    secret = done.stdout.split()[0]
    for generation in (2, 5, 1, 4):
        done = freezepoint.restore(f"{freezepoint.name}@{generation}")
        assert done.returncode == 9
        assert numbers(done.stdout) == list(range(10 * generation, 56))
        assert done.stdout.startswith(secret)
        newer = freezepoint.generations()[made:]
        assert [freezepoint.inspect(f"{freezepoint.name}@{number}")["point"] for number in newer] == [
            f"times#{10 * later}" for later in range(generation + 1, GENERATIONS + 1)]
        made += len(newer)


def test_an_image_by_its_path(freezepoint, counter, directory):
    run_to_stop(freezepoint, "--at", "times#10", "--every", 10, *counter(25))
    elsewhere = directory / "elsewhere"
    shutil.copytree(freezepoint.image_path(1), elsewhere, symlinks=True)
    shutil.copymode(freezepoint.image_path(1), elsewhere)
    for path in (freezepoint.image_path(1), f"store/{freezepoint.name}/1", "./elsewhere",
                 f"store/{freezepoint.name}/latest"):
        done = freezepoint.restore(path)
        assert done.returncode == 9, done.stderr
        assert numbers(done.stdout) == list(range(10, 26))
        newest = freezepoint.generations()[-1]
        assert freezepoint.inspect()["point"] == "times#20"
        freezepoint.call(freezepoint.command("rm", "--images", freezepoint.store,
                                             f"{freezepoint.name}@{newest}"))
    done = freezepoint.restore("./nowhere")
    assert done.returncode == 125 and "./nowhere" in done.stderr and done.stderr.count("\n") == 1


# -- several at once --


def test_three_copies_beside_the_original(freezepoint, counter):
    """All four are checkpointed again at about the same time: a generation each."""
    words = ("--at", "times#20", "--at", "times#120", *counter(2000, 0.02))
    original = freezepoint.start_run(*words)
    original.wait_for_message("checkpoint .*@1 ")
    copies = [freezepoint.start_restore(freezepoint.name) for _ in range(3)]
    for copy in copies:
        copy.wait_for_message("restored ")
    jobs = [freezepoint.name] + [f"{freezepoint.name}.{number}" for number in (2, 3, 4)]
    assert all(len(freezepoint.pids(job)) == 1 for job in jobs)
    assert all((RUNTIME / job / "control.sock").exists() for job in jobs)
    for program in (original, *copies):
        program.wait_for_message(r"checkpoint .* at times#120 ")
        wait_for(lambda: numbers(whole_lines(program.out))[-1] > 125, "it to go on")
    secret = original.out.split()[0]
    for program in (original, *copies):
        assert program.terminate() == 128 + signal.SIGTERM
        said = numbers(whole_lines(program.out))
        first = 1 if program is original else 20
        assert said == list(range(first, said[-1] + 1))
        assert program.out.startswith(secret)
    assert freezepoint.generations() == [1, 2, 3, 4, 5]
    for generation in range(2, 6):
        assert freezepoint.call(freezepoint.command(
            "verify", "--images", freezepoint.store,
            f"{freezepoint.name}@{generation}")).returncode == 0


def test_a_program_that_a_copy_executes(freezepoint, directory):
    """It belongs to the copy's job, not to the one that its library was made for."""
    (directory / "executing.py").write_text(EXECUTING)
    run_to_stop(freezepoint, "--at", "getpgid", "--at", "times", "--", PYTHON, "executing.py")
    for name, generation in ((freezepoint.name, 2), (f"{freezepoint.name}.8", 3)):
        done = freezepoint.restore("--then", "stop", "--name", name, f"{freezepoint.name}@1")
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert freezepoint.inspect()["generation"] == generation
        assert freezepoint.inspect()["point"] == "times#1"
        done = freezepoint.restore(freezepoint.name)
        assert (done.returncode, done.stdout) == (0, "executed\n"), done.stderr


def whole_lines(text):
    return text[:text.rfind("\n") + 1]


# -- in the background --


class Detached:
    """One `restore --detach`, with the log that it names."""

    def __init__(self, freezepoint, *words):
        done = freezepoint.restore("--detach", *words)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        self.freezepoint = freezepoint
        self.job, path = re.search(r"job (\S+) runs in the background; its output is in (\S+)$",
                                   done.stderr, re.M).groups()
        self.path = pathlib.Path(path)

    @property
    def log(self):
        return self.path.read_text()

    def numbers(self):
        return numbers("".join(f"{line}\n" for line in whole_lines(self.log).splitlines()
                               if not line.startswith("freezepoint: ")))

    def wait_for_end(self):
        wait_for(lambda: "the program ended" in self.log, "the end in the log")
        assert not (RUNTIME / self.job).exists() and not self.freezepoint.group(self.job).exists()
        status = int(re.search(r"^freezepoint: the program ended with status (\d+)$", self.log,
                               re.M).group(1))
        shutil.rmtree(self.path.parent)
        return status


@pytest.fixture
def stopped_counter(freezepoint, counter):
    """An image of a counter at its tenth call, and its other point, the fortieth."""
    words = ("--at", "times#10", "--at", "times#40", *counter(100, 0.02))
    run_to_stop(freezepoint, *words)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_detached_and_killed(freezepoint, stopped_counter, number):
    detached = Detached(freezepoint, freezepoint.name)
    assert detached.job == freezepoint.name
    wait_for(lambda: len(detached.numbers()) > 5, "its output in the log")
    pid, = freezepoint.pids(detached.job)
    os.kill(pid, number)
    said = detached.numbers()
    assert detached.wait_for_end() == 128 + number
    assert said == list(range(10, said[-1] + 1))


def test_detached_to_its_end_and_further_images(freezepoint, stopped_counter):
    """Two of them side by side; each takes its other point, and their copies end, too."""
    both = [Detached(freezepoint, freezepoint.name), Detached(freezepoint, freezepoint.name)]
    assert [detached.job for detached in both] == [freezepoint.name, f"{freezepoint.name}.2"]
    for detached in both:
        wait_for(lambda: "checkpoint " in detached.log, "its checkpoint")
        assert re.search(rf"^freezepoint: checkpoint {freezepoint.name}@[23] at times#40 ",
                         detached.log, re.M)
    for detached in both:
        wait_for(lambda: "the program ended" in detached.log, "the end in the log")
        assert detached.numbers() == list(range(10, 101))
        assert detached.wait_for_end() == 9
    assert freezepoint.generations() == [1, 2, 3]
    done = freezepoint.restore(f"{freezepoint.name}@2")
    assert done.returncode == 9 and numbers(done.stdout) == list(range(40, 101))


def test_detached_under_a_name_and_stopped(freezepoint, stopped_counter):
    name = f"{freezepoint.name}.7"
    detached = Detached(freezepoint, "--then", "stop", "--name", name, freezepoint.name)
    assert detached.job == name
    wait_for(lambda: ", stopped" in detached.log, "its checkpoint")
    assert detached.wait_for_end() == 0
    assert freezepoint.generations() == [1, 2]


def test_detached_that_fails(freezepoint, stopped_counter):
    """It is told where it was asked for, and nothing runs."""
    (freezepoint.image_path() / "criu" / "inventory.img").unlink()
    done = freezepoint.restore("--detach", freezepoint.name)
    assert done.returncode == 125 and "inventory.img" in done.stderr
    assert done.stderr.count("\n") == 1 and not freezepoint.pids()
