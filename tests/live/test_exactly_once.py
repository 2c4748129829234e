"""A point fires once, at the call it names, and no call is lost or made twice: with
threads that call it all at once, and under signals."""

import re

import pytest

from harness import APPS

THREADS = 8
CALLS_EACH = 20000
CALLS = THREADS * CALLS_EACH
THREADS_SAID = f"calls {CALLS}, each seen once\n"

TIMERS = [["interval"], ["interval", "restart"], ["posix"], ["posix", "restart"]]
SLOW_CALLS = 10


def threads_words():
    return ["--", APPS / "threads", THREADS, CALLS_EACH]


def points_of(freezepoint):
    """POINT#HIT of each image, by generation."""
    return {image["generation"]: image["point"] for image in freezepoint.images()}


def assert_threads(done):
    assert (done.returncode, done.stdout) == (0, THREADS_SAID), done.stderr


# -- threads --


@pytest.mark.parametrize("turn", range(20))
def test_one_hit_among_threads(freezepoint, turn):
    """Twenty numbers, the first and the last call among them."""
    number = 1 + turn * (CALLS - 1) // 19
    assert_threads(freezepoint.run("--at", f"rand_r#{number}", *threads_words()))
    assert freezepoint.generations() == [1]
    image = freezepoint.inspect()
    assert image["hit"]["hit"] == number and image["hit"]["function"] == "rand_r"
    assert image["points"] == [{"spec": f"rand_r#{number}", "every": 0, "done": True}]
    assert_threads(freezepoint.restore(freezepoint.name))
    assert freezepoint.generations() == [1]


def test_no_hit_beyond_the_last_call(freezepoint):
    done = freezepoint.run("--at", f"rand_r#{CALLS + 1}", *threads_words())
    assert_threads(done)
    assert "no image" in done.stderr and freezepoint.images() == []


def test_several_points_together(freezepoint):
    points = ["rand_r#1", "rand_r#80000", "rand_r#80001", "pthread_create#8", "pthread_join#2"]
    options = [word for point in points for word in ("--at", point)]
    assert_threads(freezepoint.run(*options, *threads_words()))
    assert sorted(points_of(freezepoint).values()) == sorted(points)
    for generation in freezepoint.generations():
        done = freezepoint.restore("--name", freezepoint.name,
                                   f"{freezepoint.name}@{generation}")
        assert_threads(done)
        seen = {rule["spec"] for rule in freezepoint.inspect(
            f"{freezepoint.name}@{generation}")["points"] if rule["done"]}
        taken = set(re.findall(r"checkpoint \S+ at (\S+) ", done.stderr))
        assert taken == set(points) - seen


def test_every_so_many_calls(freezepoint):
    first, every = 10000, 20000
    hits = list(range(first, CALLS + 1, every))
    done = freezepoint.run("--at", f"rand_r#{first}", "--every", every, *threads_words())
    assert_threads(done)
    taken = points_of(freezepoint)
    assert sorted(taken.values()) == sorted(f"rand_r#{hit}" for hit in hits)
    assert_threads(freezepoint.restore(f"{freezepoint.name}@1"))
    again = [point for generation, point in points_of(freezepoint).items()
             if generation > len(hits)]
    assert sorted([taken[1], *again]) == sorted(taken.values())


def test_every_with_a_limit(freezepoint):
    done = freezepoint.run("--at", "rand_r#5", "--every", 50, "--max", 3, "--",
                           APPS / "threads", 1, 5000)
    assert done.returncode == 0
    assert list(points_of(freezepoint).values()) == ["rand_r#5", "rand_r#55", "rand_r#105"]


def test_a_point_given_twice(freezepoint):
    """Two points at one call: an image each, and the first copy makes the second."""
    done = freezepoint.run("--at", "rand_r#70", "--at", "rand_r#70", "--", APPS / "threads", 1, 100)
    assert done.returncode == 0 and "each seen once" in done.stdout
    assert points_of(freezepoint) == {1: "rand_r#70", 2: "rand_r#70"}
    for generation, images in ((1, 3), (2, 3)):
        done = freezepoint.restore(f"{freezepoint.name}@{generation}")
        assert done.returncode == 0 and "each seen once" in done.stdout
        assert len(freezepoint.images()) == images


# -- signals --


def reports(output):
    return [int(number) for number in re.findall(r"^at (\d+)$", output, re.M)]


def summary(output):
    """calls, interrupted, wrong, nested."""
    return tuple(map(int, re.search(
        r"^(\d+) calls, (\d+) interrupted, (\d+) wrong, (\d+) nested$", output, re.M).groups()))


def assert_drawn(done, first):
    assert done.returncode == 0, (done.stdout[-200:], done.stderr)
    assert reports(done.stdout) == list(range(first, 20001, 1000))
    calls, _, wrong, _ = summary(done.stdout)
    assert (calls, wrong) == (20000, 0)


@pytest.mark.parametrize("timer", TIMERS, ids="-".join)
@pytest.mark.parametrize("number, first_after", [(5000, 5000), (5001, 6000)])
def test_under_a_timer(freezepoint, timer, number, first_after):
    """The copy makes call `number` and no earlier one."""
    assert_drawn(freezepoint.run("--at", f"rand_r#{number}", "--", APPS / "timer", "rand_r", 20000,
                                 *timer), 1000)
    assert points_of(freezepoint) == {1: f"rand_r#{number}"}
    assert_drawn(freezepoint.restore(freezepoint.name), first_after)
    assert freezepoint.generations() == [1]


@pytest.mark.parametrize("timer", TIMERS, ids="-".join)
def test_handler_that_calls_the_point(freezepoint, timer):
    done = freezepoint.run("--at", "rand_r#1000", "--every", 1000, "--", APPS / "timer", "rand_r",
                           20000, "nested", *timer)
    assert_drawn(done, 1000)
    nested = summary(done.stdout)[3]
    assert nested > 10
    assert list(points_of(freezepoint).values()) == [
        f"rand_r#{hit}" for hit in range(1000, 20000 + nested + 1, 1000)]
    assert_drawn(freezepoint.restore(f"{freezepoint.name}@10"), 10000)


@pytest.mark.parametrize("timer", TIMERS, ids="-".join)
@pytest.mark.parametrize("function", ["poll", "nanosleep", "read"])
def test_blocking_call_under_a_timer(freezepoint, function, timer):
    """As without freezepoint; what is right for each return, the program knows."""
    number = 5
    interrupts = function != "read" or "restart" not in timer
    done = freezepoint.run("--at", f"{function}#{number}", "--", APPS / "timer", function,
                           SLOW_CALLS, *timer)
    copy = freezepoint.restore(freezepoint.name)
    for program in (done, copy):
        assert program.returncode == 0, (program.stdout, program.stderr)
        calls, interrupted, wrong, _ = summary(program.stdout)
        assert (calls, wrong) == (SLOW_CALLS, 0)
        assert interrupted >= SLOW_CALLS / 2 if interrupts else interrupted == 0
    assert reports(done.stdout) == list(range(1, SLOW_CALLS + 1))
    made = reports(copy.stdout)
    assert made == list(range(made[0], SLOW_CALLS + 1))
    # An interrupted read is a call, too, that delivers nothing.
    assert made[0] == number or (function == "read" and interrupts and made[0] < number)
    assert points_of(freezepoint) == {1: f"{function}#{number}"}
