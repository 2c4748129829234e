"""Static tracepoints as points: --at usdt:PATH:PROVIDER:NAME[#N].

A program may skip a tracepoint unless its semaphore says that somebody looks: it must be
counted up where a probe is set, and nowhere else."""

import re
import subprocess

import pytest

from harness import APPS, links_of, state_of, wait_for
from probed import kill_group, pages_of, probes_of

STEPS = APPS / "static_tracepoints"
PYTHON = "/usr/bin/python3"
NOP = 0x90


def notes_of(path):
    """{provider:name: [(address, semaphore)]}"""
    text = subprocess.run(["readelf", "-n", path], capture_output=True, text=True, check=True).stdout
    found = {}
    for provider, name, place, semaphore in re.findall(
            r"Provider: (\S+)\s+Name: (\S+)\s+Location: (\w+), Base: \w+, Semaphore: (\w+)", text):
        found.setdefault(f"{provider}:{name}", []).append((int(place, 16), int(semaphore, 16)))
    return found


SITES = [place for place, _ in notes_of(STEPS)["tests:step"]] if STEPS.exists() else []
SEMAPHORE = notes_of(STEPS)["tests:step"][0][1] if STEPS.exists() else 0


def step(number=None):
    return f"usdt:{STEPS}:tests:step" + (f"#{number}" if number else "")


def passed(count, seen):
    """What the program prints at last, once nobody looks."""
    return f"passed {count} times, seen {seen} times, semaphore 0\n"


def memory_of(pid, address, size):
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(size)


def semaphore_of(pid):
    try:
        return int.from_bytes(memory_of(pid, SEMAPHORE, 2), "little")
    except OSError:  # the program is not executed yet
        return 0


def is_clean(pid):
    return semaphore_of(pid) == 0 and all(memory_of(pid, site, 1)[0] == NOP for site in SITES)


def assert_image_is_clean(image):
    """Semaphore and no-ops are as in the file, in each page that is in the image."""
    found = 0
    for start, page in pages_of(image):
        for address, wanted in [(SEMAPHORE, b"\0\0"), *((site, b"\x90") for site in SITES)]:
            if start <= address < start + len(page):
                found += 1
                assert page[address - start:address - start + len(wanted)] == wanted
    assert found, "not even the semaphore's page"


def test_sites_are_two_and_count_together(freezepoint):
    assert len(SITES) == 2 and SEMAPHORE
    done = freezepoint.run("--at", step(101), "--then", "stop", "--", STEPS, 200)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "100", done.stderr
    assert freezepoint.inspect()["hit"]["hit"] == 101
    assert_image_is_clean(freezepoint.image_path())
    for _ in range(2):
        done = freezepoint.restore(freezepoint.name)
        assert done.stdout.startswith("101\n") and done.stdout.endswith(passed(200, 101)), done.stderr


def test_counting_goes_on_over_checkpoints_and_restores(freezepoint):
    words = ["--at", step(20), "--every", 20, "--max", 2, "--", STEPS, 100]
    done = freezepoint.run(*words)
    assert done.returncode == 0 and re.findall(r"step#(\d+) ", done.stderr) == ["20", "40"]
    assert "semaphore 0" in done.stdout
    done = freezepoint.restore(f"{freezepoint.name}@1")
    taken = re.findall(r"checkpoint \S+ at \S+step#(\d+) ", done.stderr)
    assert taken == ["40", "60", "80", "100"], done.stderr
    for generation in freezepoint.generations():
        assert_image_is_clean(freezepoint.image_path(generation))
    assert freezepoint.generations() == [1, 2, 3, 4, 5, 6]


def test_two_points_at_one_place(freezepoint):
    """The kernel counts the semaphore up once for each place, whoever looks."""
    done = freezepoint.run("--at", step(3), "--at", step(5), "--", STEPS, 10)
    assert done.returncode == 0 and re.findall(r"step#(\d+) ", done.stderr) == ["3", "5"]
    for generation in (1, 2):
        assert_image_is_clean(freezepoint.image_path(generation))
        done = freezepoint.restore(f"{freezepoint.name}@{generation}")
        assert done.returncode == 0 and "semaphore 0" in done.stdout, done.stderr


def test_supervisor_is_killed(freezepoint):
    running = freezepoint.start_run("--at", step(10**9), "--", STEPS, 10**6, 1000)
    wait_for(lambda: freezepoint.pids() and semaphore_of(freezepoint.pids()[0]) == 2,
             "the semaphore to be counted up at two places")
    running.process.kill()
    running.wait()
    [pid] = freezepoint.pids()
    wait_for(lambda: is_clean(pid), "the probes to go")
    kill_group(freezepoint)


@pytest.mark.parametrize("moment", ["probe:stopped", "dump:frozen", "dump:lifted", "dump:held",
                                    "dump:dumping", "dump:written"])
def test_supervisor_is_killed_at_a_checkpoint(freezepoint, moment):
    freezepoint.env["FREEZEPOINT_FAULT"] = f"{moment}=stop"
    running = freezepoint.start_run("--at", step(10), "--every", 10**6, "--", STEPS, 10**6, 1000)
    wait_for(lambda: state_of(running.pid) == "T", "the fault point")
    links = links_of(running.pid) | probes_of(running.pid)
    assert links
    running.process.kill()
    running.wait()
    [pid] = freezepoint.pids()
    wait_for(lambda: is_clean(pid), "the probes to go")
    wait_for(lambda: state_of(pid) in "RS" and not freezepoint.is_frozen(), "the program to go on")
    kill_group(freezepoint)


def test_restored_process_has_none(freezepoint):
    assert freezepoint.run("--at", step(3), "--then", "stop", "--", STEPS, 3000, 1000).returncode == 0
    running = freezepoint.start_restore(freezepoint.name)
    running.wait_for_message("restored")
    assert is_clean(freezepoint.pids()[0])
    running.process.terminate()
    running.wait()


def test_two_jobs(freezepoint):
    """The kernel counts up the semaphores of both, and of restored processes before they get
    their memory."""
    other = f"{freezepoint.name}.2"
    neighbour = freezepoint.start(freezepoint.command(
        "run", "--name", other, "--images", freezepoint.store, "--at", step(2500), "--", STEPS, 3500,
        1000))
    wait_for(lambda: freezepoint.pids(other) and semaphore_of(freezepoint.pids(other)[0]) == 2,
             "the other job's probes")
    done = freezepoint.run("--at", step(20), "--every", 20, "--max", 2, "--", STEPS, 100)
    assert done.returncode == 0 and freezepoint.generations() == [1, 2], done.stderr
    pauses = [float(pause) for pause in re.findall(r"frozen (\S+) ms", done.stderr)]
    assert max(pauses) < 1000, "it waited until the other's probe was taken away"
    for generation in (1, 2):
        assert_image_is_clean(freezepoint.image_path(generation))
    done = freezepoint.restore(f"{freezepoint.name}@1")
    taken = re.findall(r"checkpoint \S+ at \S+step#(\d+) ", done.stderr)
    assert taken == ["40", "60", "80", "100"], done.stderr
    assert neighbour.running()
    assert neighbour.wait() == 0 and "checkpoint" in neighbour.err
    assert freezepoint.inspect(other)["hit"]["hit"] == 2500
    assert_image_is_clean(freezepoint.store / other / "1")


@pytest.mark.parametrize("name, what", [
    ("tests:stp", "did you mean 'tests:step'?"), ("other:thing", "but tests:step"),
    ("step", "a provider")])
def test_what_is_not_there_is_refused(freezepoint, name, what):
    done = freezepoint.run("--at", f"usdt:{STEPS}:{name}", "--", STEPS, 1)
    assert done.returncode == 2 and done.stdout == ""
    assert what in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_file_without_any(freezepoint):
    done = freezepoint.run("--at", f"usdt:{APPS / 'static_work'}:a:b", "--", STEPS, 1)
    assert done.returncode == 2 and "has no static tracepoints" in done.stderr


@pytest.mark.skipif("python:gc__start" not in notes_of(PYTHON), reason="python3 is built without")
def test_python(freezepoint):
    script = ("import gc\nfor i in range(1, 101):\n    print(i, flush=True)\n    gc.collect()\n")
    done = freezepoint.run("--at", f"usdt:{PYTHON}:python:gc__start#100", "--then", "stop", "--",
                           PYTHON, "-c", script)
    assert done.returncode == 0, done.stderr
    last = len(done.stdout.split())
    done = freezepoint.restore(freezepoint.name)
    assert (done.returncode, done.stdout.split()) == (0, [str(i) for i in range(last + 1, 101)])
    assert last > 50  # python's own start collects, too
