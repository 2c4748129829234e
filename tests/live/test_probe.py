"""Points in code that no preload library reaches: --at probe:PATH:SYMBOL[+OFFSET][#N]."""

import os
import random
import re
import signal
import struct
import subprocess

import pytest

from harness import APPS, all_links, links_of, state_of, wait_for
from probed import BREAKPOINT, kill_group, pages_of, probes_of

WORK = APPS / "static_work"
RIGHT = "steps {}, right\n"


def probe(symbol="work_step", number=None, program=WORK):
    return f"probe:{program}:{symbol}" + (f"#{number}" if number else "")


def text_of(program=WORK):
    """(address, bytes) of the program's code, as its file has it."""
    data = program.read_bytes()
    headers, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    for i in range(count):
        kind, flags, offset, address, _, length = struct.unpack_from(
            "<IIQQQQ", data, headers + i * size)
        if kind == 1 and flags & 1:
            return address, data[offset:offset + length]
    raise AssertionError("no code")


def address_of(symbol, program=WORK):
    names = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    return int(re.search(rf"^(\w+) . {symbol}$", names, re.M).group(1), 16)


def code_of(pid):
    """The program's code as a process has it."""
    address, code = text_of()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(len(code))


def assert_code_is_the_files(pid):
    assert code_of(pid) == text_of()[1]


def has_breakpoint(pid):
    at = address_of("work_step") - text_of()[0]
    try:
        return code_of(pid)[at] == BREAKPOINT
    except OSError:  # the program is not executed yet
        return False


def assert_image_has_no_breakpoint(image):
    start, code = text_of()
    found = 0
    for address, page in pages_of(image):
        found += 1
        if start <= address < start + len(code):
            wanted = code[address - start:address - start + 4096]
            assert page[:len(wanted)] == wanted, f"changed code at {address:#x}"
    assert found


def test_static_program_is_stopped_and_restored(freezepoint):
    done = freezepoint.run("--at", probe(number=1000), "--then", "stop", "--", WORK, 4, 5000)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    hit = freezepoint.inspect()["hit"]
    assert hit["hit"] == 1000 and hit["comm"] == "static_work"
    assert_image_has_no_breakpoint(freezepoint.image_path())
    for _ in range(2):
        done = freezepoint.restore(freezepoint.name)
        assert (done.returncode, done.stdout) == (0, RIGHT.format(20000)), done.stderr


def test_program_goes_on(freezepoint):
    done = freezepoint.run("--at", probe(), "--", WORK, 4, 5000)
    assert (done.returncode, done.stdout) == (0, RIGHT.format(20000)), done.stderr
    assert "checkpoint" in done.stderr
    assert freezepoint.inspect()["hit"]["hit"] == 1


ROUNDS, STEPS = 50, 2500


def test_fifty_random_hits_of_four_threads(freezepoint):
    """The count is exact, and what runs on is right, here and restored.

    PROBE_SEED=N replays the numbers."""
    seed = int(os.environ.get("PROBE_SEED", random.randrange(10**6)))
    print(f"PROBE_SEED={seed}")
    numbers = random.Random(seed)
    for generation in range(1, ROUNDS + 1):
        number = numbers.randint(1, 4 * STEPS)
        done = freezepoint.run("--restore", "never", "--at", probe(number=number), "--", WORK, 4,
                               STEPS)
        assert (done.returncode, done.stdout) == (0, RIGHT.format(4 * STEPS)), (number, done.stderr)
        image = freezepoint.inspect(f"{freezepoint.name}@{generation}")
        assert image["hit"]["hit"] == number
        # The other three may have come there until all were stopped: for a time slice,
        # where the one that hit lost its processor just then.
        assert number <= image["points"][0]["hits"] <= 4 * STEPS
        assert_image_has_no_breakpoint(freezepoint.image_path(generation))
        done = freezepoint.restore(f"{freezepoint.name}@{generation}")
        assert (done.returncode, done.stdout) == (0, RIGHT.format(4 * STEPS)), (number, done.stderr)


def test_counting_goes_on_over_checkpoints_and_restores(freezepoint):
    words = ["--at", probe(number=100), "--every", 100, "--max", 2, "--"]
    done = freezepoint.run(*words, WORK, 1, 500)
    assert (done.returncode, done.stdout) == (0, RIGHT.format(500)), done.stderr
    assert re.findall(r"work_step#(\d+) ", done.stderr) == ["100", "200"]
    done = freezepoint.restore(f"{freezepoint.name}@1")
    assert (done.returncode, done.stdout) == (0, RIGHT.format(500)), done.stderr
    taken = re.findall(r"checkpoint \S+ at \S+work_step#(\d+) ", done.stderr)
    assert taken == ["200", "300", "400", "500"]
    assert freezepoint.generations() == [1, 2, 3, 4, 5, 6]
    done = freezepoint.restore(freezepoint.name)
    assert (done.returncode, done.stdout) == (0, RIGHT.format(500)), done.stderr


def test_started_from_its_image(freezepoint):
    words = ["--at", probe(number=3), "--", WORK, 1, 10]
    assert freezepoint.run("--then", "stop", *words).returncode == 0
    done = freezepoint.run(*words)
    assert (done.returncode, done.stdout) == (0, RIGHT.format(10)), done.stderr
    assert "restored" in done.stderr and freezepoint.generations() == [1]


def test_code_of_the_running_and_of_the_restored(freezepoint):
    """The breakpoint is there while the point is due, and nowhere afterwards."""
    running = freezepoint.start_run("--at", probe(number=3000), "--then", "stop", "--", WORK, 4,
                                    2000, 1000)
    wait_for(lambda: freezepoint.pids() and has_breakpoint(freezepoint.pids()[0]), "the breakpoint")
    assert running.wait() == 0, running.err
    assert_image_has_no_breakpoint(freezepoint.image_path())
    running = freezepoint.start_restore(freezepoint.name)
    running.wait_for_message("restored")
    assert_code_is_the_files(freezepoint.pids()[0])
    assert running.wait() == 0 and running.out == RIGHT.format(8000)


def test_code_once_the_checkpoint_is_taken(freezepoint):
    running = freezepoint.start_run("--at", probe(number=300), "--", WORK, 4, 2000, 1000)
    running.wait_for_message("checkpoint .*@1 ")
    wait_for(lambda: not probes_of(running.pid), "the probe to be taken away")
    assert_code_is_the_files(freezepoint.pids()[0])
    assert running.wait() == 0 and running.out == RIGHT.format(8000)


def test_offset_and_address(freezepoint):
    """The second instruction, given both ways."""
    start, code = text_of()
    del code
    listing = subprocess.run(["objdump", "-dw", "--disassemble=work_step", WORK],
                             capture_output=True, text=True, check=True).stdout
    places = [int(place, 16) for place in re.findall(r"^ +(\w+):\t", listing, re.M)]
    assert places[0] == address_of("work_step") > start
    offset = places[1] - places[0]
    for symbol in (f"work_step+{offset}", f"work_step+{offset:#x}", f"{places[1]:#x}"):
        done = freezepoint.run("--restore", "never", "--at", probe(symbol, 7), "--", WORK, 1, 10)
        assert (done.returncode, done.stdout) == (0, RIGHT.format(10)), done.stderr
        assert freezepoint.inspect()["hit"]["hit"] == 7
    done = freezepoint.run("--at", probe("work_step+1"), "--", WORK, 1, 10)
    assert done.returncode == 2 and "no instruction begins there" in done.stderr


def test_internal_function_beside_a_hooked_one(freezepoint):
    """A dynamic program: the preload library's points and probes, each with its count."""
    program = APPS / "threads"
    words = ["--at", probe("work#2", program=program), "--at", "rand_r#20000", "--", program, 4,
             10000]
    done = freezepoint.run(*words)
    assert done.returncode == 0 and "each seen once" in done.stdout, done.stderr
    assert freezepoint.generations() == [1, 2]
    for generation in (1, 2):
        done = freezepoint.restore(f"{freezepoint.name}@{generation}")
        assert done.returncode == 0 and "each seen once" in done.stdout, done.stderr


@pytest.mark.parametrize("symbol, what", [
    ("work_stp", "did you mean 'work_step'?"), ("step", "'work_step'"),
    ("nosuchthing", "has no symbol 'nosuchthing'"), ("total", "is data of"),
    ("memcpy", "an indirect function"), ("work_step+100000", "bytes long"),
    ("0x10", "has no code at 0x10"), ("", "the function's name is missing")])
def test_what_cannot_be_probed_is_refused(freezepoint, symbol, what):
    done = freezepoint.run("--at", probe(symbol), "--", WORK, 1, 1)
    assert done.returncode == 2 and done.stdout == ""
    assert what in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_file_that_is_none(freezepoint, directory):
    (directory / "text").write_text("text")
    for path, what in (("/no/such/file", "No such file"), ("text", "not an ELF file")):
        done = freezepoint.run("--at", f"probe:{path}:main", "--", WORK, 1, 1)
        assert done.returncode == 2 and what in done.stderr, done.stderr


def test_ambiguous_name_is_listed(freezepoint, directory):
    for name in "ab":
        (directory / f"{name}.c").write_text(
            f"static __attribute__((noipa)) int same(void) {{ return {ord(name)}; }}\n"
            f"int {name}(void) {{ return same(); }}\n")
    (directory / "main.c").write_text("int a(void), b(void); int main(void) { return a() - b(); }\n")
    subprocess.run(["gcc", "-static", "-O1", "-o", "two", "main.c", "a.c", "b.c"], cwd=directory,
                   check=True, timeout=60)
    done = freezepoint.run("--at", "probe:./two:same", "--", "./two")
    assert done.returncode == 2 and "has 2 functions 'same', at 0x" in done.stderr
    address = re.search(r"at (0x\w+),", done.stderr).group(1)
    done = freezepoint.run("--at", f"probe:./two:{address}", "--", "./two")
    assert done.returncode == 255 and "checkpoint" in done.stderr, done.stderr


def test_program_that_ends_before_the_probe_is_hit(freezepoint):
    done = freezepoint.run("--at", probe(number=11), "--", WORK, 1, 10)
    assert (done.returncode, done.stdout) == (0, RIGHT.format(10))
    assert "no image: the program ended before" in done.stderr
    assert freezepoint.images() == []


def assert_unharmed(freezepoint, links):
    """The supervisor is dead: the program runs on without us."""
    wait_for(lambda: not links & all_links(), "the BPF programs to be detached")
    wait_for(lambda: all(state_of(pid) in "RS" for pid in freezepoint.pids()),
             "the program to go on")
    [pid] = freezepoint.pids()
    wait_for(lambda: not freezepoint.is_frozen(), "the program to be thawed")
    wait_for(lambda: code_of(pid) == text_of()[1], "the breakpoints to go")
    before = cpu_of(pid)
    wait_for(lambda: cpu_of(pid) > before, "the program to do something")


def cpu_of(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        words = stat.read().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def test_supervisor_is_killed_before_the_hit(freezepoint):
    running = freezepoint.start_run("--at", probe(number=10**12), "--", WORK, 4, 10**9)
    wait_for(lambda: freezepoint.pids() and has_breakpoint(freezepoint.pids()[0]), "the breakpoint")
    links = links_of(running.pid) | probes_of(running.pid)
    assert links
    running.process.kill()
    running.wait()
    assert_unharmed(freezepoint, links)
    kill_group(freezepoint)


@pytest.mark.parametrize("moment", ["probe:stopped", "dump:notified", "dump:frozen", "dump:lifted",
                                    "dump:held", "dump:dumping", "dump:written"])
def test_supervisor_is_killed_while_the_program_is_stopped(freezepoint, moment):
    freezepoint.env["FREEZEPOINT_FAULT"] = f"{moment}=stop"
    running = freezepoint.start_run("--at", probe(number=1000), "--every", 10**11, "--", WORK, 4,
                                    10**9)
    wait_for(lambda: state_of(running.pid) == "T", "the fault point")
    links = links_of(running.pid) | probes_of(running.pid)
    running.process.kill()
    running.wait()
    assert_unharmed(freezepoint, links)
    kill_group(freezepoint)


@pytest.fixture
def neighbour(freezepoint):
    """Another job, with a probe at the same place of the same file."""
    running = freezepoint.start(freezepoint.command(
        "run", "--name", f"{freezepoint.name}.2", "--images", freezepoint.store, "--at",
        probe(number=6000), "--", WORK, 4, 2000, 1000))
    running.job = f"{freezepoint.name}.2"
    wait_for(lambda: freezepoint.pids(running.job) and
             has_breakpoint(freezepoint.pids(running.job)[0]), "the other job's breakpoint")
    return running


def test_two_jobs_at_one_place(freezepoint, neighbour):
    """The kernel sets each job's probe in the other's text, too."""
    done = freezepoint.run("--at", probe(number=100), "--every", 100, "--max", 3, "--", WORK, 4, 200)
    assert (done.returncode, done.stdout) == (0, RIGHT.format(800)), done.stderr
    assert freezepoint.generations() == [1, 2, 3] and neighbour.running(), done.stderr
    pauses = [float(pause) for pause in re.findall(r"frozen (\S+) ms", done.stderr)]
    assert max(pauses) < 1000, "it waited until the other's probe was taken away"
    for generation in (1, 2, 3):
        assert_image_has_no_breakpoint(freezepoint.image_path(generation))
        done = freezepoint.restore(f"{freezepoint.name}@{generation}")
        assert (done.returncode, done.stdout) == (0, RIGHT.format(800)), done.stderr
    assert neighbour.wait() == 0 and neighbour.out == RIGHT.format(8000), neighbour.err
    assert freezepoint.inspect(neighbour.job)["hit"]["hit"] == 6000
    done = freezepoint.restore(neighbour.job)
    assert (done.returncode, done.stdout) == (0, RIGHT.format(8000)), done.stderr


def test_neighbours_breakpoint_is_back_after_a_checkpoint(freezepoint, neighbour):
    """A tracer would go on to see the program; and when it ends, its breakpoint goes."""
    running = freezepoint.start_run("--at", probe(number=100), "--", WORK, 4, 4000, 1000)
    running.wait_for_message("checkpoint .*@1 ")
    wait_for(lambda: not probes_of(running.pid), "the probe to be taken away")
    [pid] = freezepoint.pids()
    assert has_breakpoint(pid) and neighbour.running()
    assert neighbour.wait() == 0
    wait_for(lambda: not has_breakpoint(pid), "the other job's breakpoint to go")
    assert running.wait() == 0 and running.out == RIGHT.format(16000)


def test_failed_dump_leaves_the_program_running(freezepoint):
    """And its probes set: the next hit is checkpointed again."""
    script = freezepoint.directory / "criu"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    freezepoint.env["FREEZEPOINT_CRIU"] = str(script)
    done = freezepoint.run("--at", probe(number=10), "--every", 500, "--", WORK, 4, 300)
    assert (done.returncode, done.stdout) == (0, RIGHT.format(1200)), done.stderr
    assert done.stderr.count("failed, the program goes on") == 3, done.stderr


SIGNALS = """
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static volatile int continued;

static void handle(int number)
{
    continued += number == SIGCONT;
}

__attribute__((noipa)) int point(int i)
{
    return i + 1;
}

int main(int argc, char **argv)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCONT);
    if (argc > 1 && argv[1][0] == 'c')
        signal(SIGCONT, handle);
    if (argc > 1 && argv[1][0] == 'b')
        sigprocmask(SIG_BLOCK, &set, NULL);
    if (argc > 2) {
        signal(SIGTSTP, handle);
        signal(SIGTTIN, handle);
        signal(SIGTTOU, handle);
    }
    int sum = 0;
    for (int i = 0; i < 1000; i++)
        sum = point(sum);
    sigpending(&set);
    printf("sum %d continued %d pending %d\\n", sum, continued, sigismember(&set, SIGCONT));
    return 0;
}
"""


@pytest.fixture
def signals_program(directory):
    (directory / "signals.c").write_text(SIGNALS)
    subprocess.run(["gcc", "-static", "-O1", "-o", "signals", "signals.c"], cwd=directory,
                   check=True, timeout=60)
    return directory / "signals"


@pytest.mark.parametrize("way", ["default", "caught", "blocked"])
def test_program_does_not_see_the_stop(freezepoint, signals_program, way):
    """SIGCONT ends it; a program that catches or blocks that gets none, here and restored."""
    at = probe("point", 500, signals_program)
    wanted = "sum 1000 continued 0 pending 0\n"
    done = freezepoint.run("--at", at, "--", signals_program, way)
    assert (done.returncode, done.stdout) == (0, wanted), done.stderr
    assert "checkpoint" in done.stderr
    done = freezepoint.restore(freezepoint.name)
    assert (done.returncode, done.stdout) == (0, wanted), done.stderr


def test_stop_that_cannot_be_hidden_gives_no_image(freezepoint, signals_program):
    done = freezepoint.run("--at", probe("point", 500, signals_program), "--", signals_program,
                           "caught", "all")
    assert done.returncode == 0 and "sum 1000" in done.stdout
    assert "catches or blocks SIGCONT" in done.stderr and freezepoint.images() == []
