"""Whether `freezepoint points` advises well: the time from the start of `freezepoint
restore` to the first correct answer, from an image at the advised point and from
images at points that somebody who knows the program would try by hand.

Each program is judged twice: with images of a program that nobody has used yet, and
with images that may also be taken after a first request.  The best by hand is found
in some turns of all points; then the advised one and that best take turns alone, or
the choice of the luckiest of many would count against the advice.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import statistics
import subprocess
import time

from bench_programs import (Django, Flask, Gunicorn, GunicornPreload, Java, LargeRedis, Nginx, Node,
                            PythonServer, Tomcat, await_silence)
from harness import is_listening, wait_for
from starts import start_and_end, turns

NOISE = 1.05         # two medians of the same thing differ by as much
SLOW_MS = 300        # a cold start from which on the saving is judged
SHARE = 0.25         # what a restore may take of that
WAIT_S = 10          # for a point that an idle program does not come to
PICKING_TURNS = 3
REQUESTS_MAX = 2     # to come to a point that is after a request
SETTLE_S = 2.5       # from listening to the first request: for redis to have loaded its data
PAUSE_S = 1.0        # before a further one
REST_S = 2.0         # after that
FAULT_SHOWN = 120   # characters
RULE = (f"met: the first answer from the advised point / from the best by hand, median of the "
        f"turns' ratios, is at most {NOISE}; and where the cold start takes more than {SLOW_MS} "
        f"ms, that of the advised point less than {SHARE:.0%} of it")


def numbered(function, *numbers):
    return [f"{function}#{number}" for number in numbers]


# Each with the points of a program that nobody uses, and further ones once it is used.
TRIED = (
    (PythonServer, ["main", "listen", "poll#1", "poll#2"], numbered("poll", 7, 9)),
    (Node, ["main", "listen", "epoll_wait#1", "epoll_wait#2"], numbered("epoll_wait", 3, 4, 5, 6)),
    (LargeRedis, ["main", "listen", "epoll_wait#1", "epoll_wait#20", "epoll_wait#30"],
     numbered("epoll_wait", 40, 50)),
    (Java, ["main", "listen", "epoll_wait#1", "epoll_wait#2"], numbered("epoll_wait", 3, 4, 6)),
    (Tomcat, ["main", "listen", "epoll_wait#1", "epoll_wait#2"], numbered("epoll_wait", 4, 6, 8)),
    (Flask, ["main", "listen", "poll#1", "poll#2"], numbered("poll", 7, 9)),
    (Django, ["main", "listen", "poll#1", "poll#2"], numbered("poll", 7, 9)),
    (Gunicorn, ["main", "listen", "accept", "select#1", "select#2"], numbered("select", 3, 4)),
    (GunicornPreload, ["main", "listen", "accept", "select#1", "select#2"],
     numbered("select", 3, 4)),
    (Nginx, ["main", "listen", "epoll_wait#1", "epoll_wait#2"], numbered("epoll_wait", 4, 5, 6)),
)


@dataclasses.dataclass
class Point:
    """One whose image is tried."""

    name: str
    used: bool  # the program is sent requests until it comes to it
    tool: object = None
    fault: str = ""
    took: list = dataclasses.field(default_factory=list)

    @property
    def median(self):
        return statistics.median(self.took)


class Comparison:
    def __init__(self, bench, program_class, idle, used):
        self.bench = bench
        self.program = program_class(bench.directory / f"points-{program_class.name}")
        self.output = bench.directory / f"points-{program_class.name}.out"
        self.numbers = itertools.count()
        self.points = {}
        for name in idle:
            self.add(name, False)
        for name in used:
            self.add(name, True)

    # -- images --

    def new_tool(self):
        tool = self.bench.tool(f"{self.program.name}-{next(self.numbers)}")
        tool.env.update(self.program.environment)
        tool.directory = self.program.directory
        return tool

    def add(self, name, used):
        """Takes the image at a point, unless it has been taken."""
        name = name if name == "main" or "#" in name else f"{name}#1"
        for key in ((name, False), (name, used)):
            if key in self.points and not self.points[key].fault:
                return self.points[key]
        point = Point(name, used, self.new_tool())
        self.points[name, used] = point
        running = point.tool.start_run("--at", name, "--then", "stop", "--",
                                       *self.program.command())
        try:
            self.await_image(point, running)
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.terminate()
            await_silence(self.program)
        if point.tool.generations():
            self.restore(point)
            point.took.clear()
        else:
            said = [line for line in running.err.splitlines() if "freezepoint: " in line]
            self.give_up(point, said[-1].partition("freezepoint: ")[2] if said
                         else "it is not called")
        return point

    def await_image(self, point, running):
        done = lambda: not running.running() or "(frozen " in running.err  # noqa: E731
        self.await_listening(done)
        for pause in [SETTLE_S] + [PAUSE_S] * REQUESTS_MAX if point.used else [WAIT_S]:
            end = time.monotonic() + pause
            while not done() and time.monotonic() < end:
                time.sleep(0.02)
            if not done() and point.used:
                with contextlib.suppress(OSError):
                    self.program.ask(2.0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(10 if done() else PAUSE_S)

    def await_listening(self, is_over=lambda: False):
        wait_for(lambda: is_over() or is_listening(self.program.port),
                 f"{self.program.name} to listen", 60)

    def take_turns(self, points, times):
        for turn in turns(points, times):
            for point in turn:
                if not point.fault:
                    self.restore(point)

    # -- times --

    def restore(self, point):
        """Where that fails, it is out."""
        self.output.write_bytes(b"")
        try:
            point.took.append(start_and_end(
                self.program, point.tool.restore_words(point.tool.name), self.output,
                signal.SIGTERM, env=point.tool.env))
        except (AssertionError, TimeoutError) as error:
            said = self.output.read_text(errors="replace").strip().splitlines()
            self.give_up(point, f"restored: {error}: {said[-1] if said else ''}")

    def give_up(self, point, fault):
        point.fault = fault[:FAULT_SHOWN]
        print(f"  {self.program.name} at {point.name}{' (used)' * point.used}: {point.fault}",
              flush=True)

    def start_cold(self):
        return start_and_end(self.program, self.program.command(), self.output, signal.SIGTERM,
                             env={**os.environ, **self.program.environment})

    # -- the advice --

    def advice(self, used):
        """The point in the first advice's command."""
        tool = self.new_tool()
        watch = ("--for", "1m") if used else ()  # ended below
        words = tool.command("points", "--json", *watch, "--", *self.program.command())
        with open(self.output, "ab") as err:
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=err, env=tool.env,
                                       cwd=tool.directory, stdin=subprocess.DEVNULL)
        try:
            if used:
                self.await_listening()
                time.sleep(SETTLE_S)
                wait_for(self.program.ask, f"{self.program.name} to answer", 30, 0.2)
                time.sleep(REST_S)
                process.terminate()
            learnt = json.loads(process.communicate(timeout=120)[0])
        finally:
            process.terminate()
            process.wait(30)
        await_silence(self.program)
        words = learnt["advice"][0]["command"].split()
        return words[words.index("--at") + 1]

    # -- all of it --

    def judge(self, used, cold):
        advised = self.add(self.advice(used), used)
        by_hand = [point for point in self.points.values() if not point.fault
                   and (used or not point.used) and point is not advised]
        self.take_turns([advised, *by_hand], PICKING_TURNS)
        by_hand = [point for point in by_hand if not point.fault]
        for point in by_hand:
            print(f"  {self.program.name} at {point.name}{' (used)' * point.used}: "
                  f"{point.median:.1f} ms")
        if advised.fault or not by_hand:
            return make_verdict(self.program, used, cold, advised)
        best = min(by_hand, key=lambda point: point.median)
        for point in (advised, *by_hand):
            point.took.clear()
        self.take_turns([advised, best], 2 * self.bench.times)
        if advised.fault or best.fault:
            return make_verdict(self.program, used, cold, advised)
        return make_verdict(self.program, used, cold, advised, best)

    def measure(self):
        cold = [self.start_cold() for _ in range(self.bench.times)]
        for used in (False, True):
            yield self.judge(used, statistics.median(cold))


def make_verdict(program, used, cold, advised, best=None):
    verdict = {"program": program.name, "what": "advice", "used": used, "cold": cold,
               "point": advised.name, "fault": advised.fault, "met": False}
    if best:
        ratio = statistics.median(mine / other for mine, other in zip(advised.took, best.took))
        verdict |= {"first": advised.median, "best": best.name, "best_first": best.median,
                    "ratio": ratio, "share": advised.median / cold, "n": len(advised.took)}
        verdict["met"] = ratio <= NOISE and (cold <= SLOW_MS or verdict["share"] < SHARE)
    return verdict


ROW = "{:<24} {:>10} {:<18} {:>8} {:<18} {:>8} {:>6} {:>6}  {}"


def print_verdict(verdict):
    name = verdict["program"] + ", used once" * verdict["used"]
    if "best" not in verdict:
        print(ROW.format(name, f"{verdict['cold']:.1f}", verdict["point"], "-", "-", "-", "-", "-",
                         f"MISSED: {verdict['fault']}"), flush=True)
        return
    print(ROW.format(name, f"{verdict['cold']:.1f}", verdict["point"], f"{verdict['first']:.1f}",
                     verdict["best"], f"{verdict['best_first']:.1f}", f"{verdict['ratio']:.2f}",
                     f"{verdict['share']:.0%}", "met" if verdict["met"] else "MISSED"), flush=True)


def measure_points(bench, names=()):
    """names: of the programs; none: all."""
    print(ROW.format("first answer, ms", "cold", "advised point", "ms", "best other", "ms",
                     "ratio", "/cold", ""))
    for program_class, idle, used in TRIED:
        if names and program_class.name not in names:
            continue
        if program_class.missing():
            print(f"{program_class.name}: not here: {', '.join(program_class.missing())}")
            continue
        try:
            for verdict in Comparison(bench, program_class, idle, used).measure():
                bench.results.append(verdict)
                print_verdict(verdict)
        except (AssertionError, TimeoutError, subprocess.TimeoutExpired) as error:
            print(f"{program_class.name}: given up: {error}", flush=True)
    print(RULE, flush=True)
