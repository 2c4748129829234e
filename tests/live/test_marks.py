"""What the kernel saw of checkpoints: marks by a BPF program, beside what shim and
supervisor say."""

import os
import re
import signal
import subprocess

import pytest

from harness import APPS, PYTHON, all_links, links_of, wait_for

MOMENT_NS = 2_000_000
NOT_RECORDED = "the kernel's marks are not recorded"


def marks_of(freezepoint):
    """(inspect's whole, its mark) of each generation."""
    whole = [freezepoint.inspect(f"{freezepoint.name}@{generation}")
             for generation in sorted(freezepoint.generations())]
    assert all(image["mark"] for image in whole), whole
    return [(image, image["mark"]) for image in whole]


def assert_agrees(image, mark):
    """The kernel's times enclose the supervisor's, and come in their order."""
    times, hit = image["timings"], image["hit"]
    assert mark["tid"] == hit["tid"] and mark["pid"] == hit["pid"] and mark["comm"] == hit["comm"]
    assert mark["lost"] == 0 and mark["cgroup_id"] > 0
    assert mark["point_ns"] < mark["frozen_ns"] < mark["thawed_ns"]
    # The supervisor may be told a moment earlier than the BPF program runs.
    assert mark["frozen_ns"] - MOMENT_NS < times["frozen_ns"] < mark["thawed_ns"]
    assert mark["point_ns"] - MOMENT_NS < times["notified_ns"] < mark["frozen_ns"]
    if times["thawed_ns"]:
        assert mark["thawed_ns"] < mark["resumed_ns"]


def functions(mark):
    return [frame["symbol"] for frame in mark["stack"]]


def test_every_checkpoint_has_its_mark(freezepoint):
    """Eight threads come to the point: each image has the mark of the one that was due."""
    done = freezepoint.run("--at", "rand_r#20000", "--every", 20000, "--", APPS / "threads", 8,
                           20000)
    assert done.returncode == 0, done.stderr
    marks = marks_of(freezepoint)
    assert len(marks) == 8 == done.stderr.count("checkpoint ")
    for image, mark in marks:
        assert_agrees(image, mark)
    assert (sorted(image["hit"]["hit"] for image, _ in marks)
            == [20000 * (i + 1) for i in range(8)])


def test_marks_come_in_the_order_of_the_hits(freezepoint):
    done = freezepoint.run("--at", "rand_r#100", "--every", 100, "--", APPS / "threads", 1, 1000)
    assert done.returncode == 0, done.stderr
    marks = marks_of(freezepoint)
    said = [int(hit) for hit in re.findall(r"at rand_r#(\d+) ", done.stderr)]
    assert said == [image["hit"]["hit"] for image, _ in marks] == list(range(100, 1001, 100))
    frozen = [float(ms) for ms in re.findall(r"\(frozen ([\d.]+) ms\)", done.stderr)]
    assert frozen == [pytest.approx(mark["frozen_to_resumed_ms"], abs=0.051) for _, mark in marks]
    ends = [time for _, mark in marks for time in (mark["point_ns"], mark["resumed_ns"])]
    assert ends == sorted(ends)


def test_first_hit_of_a_short_program(freezepoint):
    """It comes before the BPF program is loaded, and is marked all the same."""
    done = freezepoint.run("--at", "rand_r", "--", APPS / "threads", 1, 10)
    assert done.returncode == 0, done.stderr
    [(image, mark)] = marks_of(freezepoint)
    assert_agrees(image, mark)
    assert image["hit"]["hit"] == 1


def test_stack_has_names(freezepoint):
    done = freezepoint.run("--at", "rand_r#3", "--then", "stop", "--", APPS / "threads", 1, 10)
    assert done.returncode == 0, done.stderr
    [(image, mark)] = marks_of(freezepoint)
    assert_agrees(image, mark)
    assert mark["resumed_ns"] == 0
    inner = mark["stack"][0]
    assert inner["module"] == str(APPS / "threads") and inner["symbol"], mark
    headers = subprocess.run(["readelf", "-n", inner["module"]], capture_output=True, text=True,
                             check=True).stdout
    build_id = re.search(r"Build ID: (\w+)", headers)
    assert inner["build_id"] == (build_id.group(1) if build_id else "")
    assert any(frame["module"].endswith("libc.so.6") for frame in mark["stack"])


def test_stack_of_an_interpreter(freezepoint):
    """Compiled without frame pointers."""
    done = freezepoint.run("--at", "times", "--", PYTHON, "-c", "import os; os.times()")
    assert done.returncode == 0, done.stderr
    [(_, mark)] = marks_of(freezepoint)
    assert "_start" in functions(mark) or "Py_BytesMain" in functions(mark), mark


def test_nothing_beside_the_program_is_opened(freezepoint, directory):
    """A FIFO where its debugging information is said to be: nobody ever writes to it."""
    program, debug = directory / "threads", directory / "threads.debug"
    debug.touch()
    subprocess.run(["objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", APPS / "threads",
                    program], check=True)
    debug.unlink()
    os.mkfifo(debug)
    done = freezepoint.run("--at", "rand_r#3", "--", program, 1, 10, timeout=20)
    assert done.returncode == 0, done.stderr
    [(_, mark)] = marks_of(freezepoint)
    assert mark["stack"][0]["module"] == str(program)


def test_marks_of_restored_programs(freezepoint):
    """Its numbers are those of its own pid namespace; the kernel knows others, too."""
    words = ["--at", "rand_r#20000", "--every", 20000, "--", APPS / "threads", 4, 20000]
    assert freezepoint.run("--then", "stop", *words).returncode == 0
    assert freezepoint.restore("--then", "stop", freezepoint.name).returncode == 0
    (first, _), (second, mark) = marks_of(freezepoint)
    assert_agrees(second, mark)
    assert mark["pid"] == first["hit"]["pid"] and mark["host_pid"] != mark["pid"]


def test_marks_in_a_container(freezepoint):
    """freezepoint itself has a pid namespace, whose numbers are not those of the kernel."""
    inside = ["unshare", "--pid", "--fork", "--mount-proc"]
    words = freezepoint.run_words("--at", "rand_r#200", "--every", 200, "--then", "stop", "--",
                                  APPS / "threads", 2, 400)
    done = freezepoint.call([*inside, *words])
    assert done.returncode == 0, done.stderr
    done = freezepoint.call([*inside, *freezepoint.restore_words(freezepoint.name)])
    assert done.returncode == 0, done.stderr
    marks = marks_of(freezepoint)
    assert len(marks) > 1
    for image, mark in marks:
        assert_agrees(image, mark)


@pytest.fixture
def without_types(freezepoint):
    """Words that run a command where the kernel's types cannot be read."""
    return ["unshare", "--mount", "sh", "-c",
            'mount -t tmpfs none /sys/kernel/btf && exec "$@"', "sh"]


def test_without_bpf_all_else_works(freezepoint, without_types):
    command = freezepoint.command("run", "--name", freezepoint.name, "--images",
                                  freezepoint.store, "--at", "rand_r#20000", "--every", 20000,
                                  "--", APPS / "threads", 3, 20000)
    done = freezepoint.call([*without_types, *command])
    assert done.returncode == 0 and freezepoint.generations() == [1, 2, 3], done.stderr
    assert done.stderr.count(NOT_RECORDED) == 1, done.stderr
    assert freezepoint.inspect()["mark"] is None


def test_detached_once_no_checkpoint_is_due(freezepoint):
    running = freezepoint.start_run("--at", "rand_r#3", "--", APPS / "steady", 1, 2)
    running.wait_for_message("checkpoint .*@1 ")
    wait_for(lambda: not links_of(running.pid), "the BPF program to be detached")
    running.process.terminate()
    running.wait()


def test_detached_where_the_supervisor_is_killed(freezepoint):
    running = freezepoint.start_run("--at", "rand_r#1000000", "--", APPS / "steady", 1, 2)
    links = wait_for(lambda: links_of(running.pid), "the BPF program to be attached")
    assert links <= all_links()
    running.process.kill()
    running.wait()
    wait_for(lambda: not links & all_links(), "the BPF program to be detached")
    for pid in freezepoint.pids():
        os.kill(pid, signal.SIGKILL)
