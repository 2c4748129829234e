"""kill -9 of each process of a migration in each of its phases on both sides, and the
link cut in each.

Whatever it was, SETTLED seconds later exactly one copy runs, on the host that has the
address, thawed; its client's connection goes on, no reply lost or doubled; nothing was
run twice; and nothing else is left.  Only where it was the program itself that was
killed, or what it lives in, it may be gone; and see BREAKS and REPEATS.
"""

import concurrent.futures
import contextlib
import itertools
import os
import re
import shutil
import signal
import time
import traceback

import pytest

from harness import APPS, Freezepoint, RUNTIME, comm_of, state_of, wait_for
from hosts import PORT, Counting, Hosts, Moving, counter_words, descendants, tasks_are_gone
from steady import mounted

SETTLED = 30
AT_ONCE = 16  # cases beside each other, most of which wait
PAUSE = 20

# Phases, by who comes to them.
SUPERVISOR = ["dump:armed", "dump:notified", "dump:frozen", "dump:held", "dump:dumping",
              "dump:written", "migrate:dumped", "migrate:held", "migrate:doubt",
              "migrate:decided", "dump:dumped", "migrate:settled"]
MIGRATE = ["migrate:hold", "migrate:sent", "migrate:ready", "migrate:go", "migrate:told"]
RECEIVE = ["receive:image", "start:claimed", "start:keeper", "restore:placed",
           "restore:init-started", "restore:criu-running", "restore:pre-resume",
           "restore:resumed", "restore:running", "receive:restored", "receive:go",
           "receive:decided", "receive:running"]
PHASES = ([(phase, "supervisor") for phase in SUPERVISOR] +
          [(phase, "migrate") for phase in MIGRATE] +
          [(phase, "receive") for phase in RECEIVE])

SOURCE = ["supervisor", "keeper", "criu", "nft", "app"]
TARGET = ["receive", "its keeper", "its init", "its criu", "its nft", "the copy"]
LINK = ["migrate", "via", "front"]

# CRIU killed between its look at the connections and the end of its dump: the program runs
# on before anybody can see to it, with connections on which it cannot speak.
BREAKS = ("dump:dumping", "criu")

# The other one killed between its letting go and our freeze: the copy, which is killed at
# once, may have run a little.  The source's is the one that goes on.
REPEATS = "its criu"

# What the copy lives in, where it is the copy that lives.
MORTAL = {"app", "the copy", "its init"}


class Case:
    """One migration from a to b, to which something is done."""

    def __init__(self, hosts, directory, name, phase, stopper, options=(), store=None, command=None):
        self.hosts, self.phase, self.stopper = hosts, phase, stopper
        self.directory = directory
        directory.mkdir()
        self.tool = Freezepoint(directory, name)
        self.moving = Moving(self.tool, hosts)
        self.stores = {place: directory / f"store-{place}" for place in "ab"}
        self.tool.store = self.stores["a"]
        self.stores["b"] = store or self.stores["b"]
        self.options, self.command = options, command
        self.client = self.supervisor = self.migrate = self.stopped = None

    def fault(self, who):
        return [f"FREEZEPOINT_FAULT={self.phase}=stop"] if who == self.stopper else []

    def start(self):
        self.supervisor = self.moving.start(*counter_words(),
                                            environment=self.fault("supervisor"))
        deadline = time.monotonic() + 20
        while not self.client:
            try:
                self.client = Counting(self.hosts, pause=0.003)
            except OSError:
                assert time.monotonic() < deadline and self.supervisor.running(), \
                    self.supervisor.err
                time.sleep(0.02)
        assert self.client.goes_on(3)
        via = self.hosts.via("b", "--images", self.stores["b"], environment=self.fault("receive"),
                             through=[APPS / "relay"])
        if self.command:
            script = self.directory / self.command
            script.write_text(f"#!/bin/sh\n{via}\n")
            script.chmod(0o755)
            via = self.command
        self.migrate = self.moving.begin(*self.options, via=via,
                                         environment=self.fault("migrate"))

    def find(self, who):
        """A process of the migration, or None."""
        below = {"migrate": [self.migrate.pid], "supervisor": [self.supervisor.pid]}
        if who in below:
            pid = below[who][0]
            return pid if state_of(pid) not in ("", "Z") else None
        if who in ("keeper", "criu", "nft"):
            return self._named(descendants(self.supervisor.pid), who)
        if who in ("app", "the copy"):
            pids = self.tool.pids(self.moving.names["a" if who == "app" else "b"])
            return self._named(pids, "counter")
        if who == "receive":
            return self.receiver()
        if who in ("via", "front"):
            via = next(iter(p for p in descendants(self.migrate.pid) if comm_of(p) == "relay"), None)
            if who == "via" or not via:
                return via
            return self._named(descendants(via)[:1], "freezepoint")
        receiver = self.receiver()
        return receiver and self._named(descendants(receiver), who.split()[-1])

    @staticmethod
    def _named(pids, who):
        name = {"keeper": "freezepoint-kee", "init": "freezepoint-ini"}.get(who, who)
        return next((pid for pid in pids if comm_of(pid).startswith(name)), None)

    def receiver(self):
        """The process in the background, which is to be the copy's supervisor."""
        if self.stopper == "receive" and self.stopped:
            return self.stopped if state_of(self.stopped) not in ("", "Z") else None
        fronts = [pid for pid in descendants(self.migrate.pid) if comm_of(pid) == "freezepoint"]
        return fronts[1] if len(fronts) > 1 else None

    def reach(self):
        """Until the phase has come; False where it does not come in this migration."""
        def come():
            pid = self.find(self.stopper)
            if pid and state_of(pid) == "T":
                self.stopped = pid
            return self.stopped or not self.migrate.running()
        wait_for(come, f"{self.stopper} at {self.phase}", timeout=20, interval=0.005)
        assert self.stopped, f"{self.phase} was not reached: {self.migrate.err}"

    def go_on(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.stopped, signal.SIGCONT)

    # -- afterwards --

    def copies(self):
        """Where it runs."""
        return [place for place, name in self.moving.names.items()
                if any(comm_of(pid) == "counter" for pid in self.tool.pids(name))]

    def left(self, at):
        """What is there that should not be, with the program `at` a place, or nowhere."""
        found = [f"{place}: table {table}" for place in "ab" for table in self.hosts.tables(place)]
        found += [f"{place} has the address" for place in "ab"
                  if at and place != at and self.hosts.has_address(place)]
        found += [f"{place} does not have the address" for place in "ab"
                  if place == at and not self.hosts.has_address(place)]
        found += self.drafts()
        for place, name in self.moving.names.items():
            if place != at:
                found += [str(path) for path in (self.tool.group(name), RUNTIME / name)
                          if path.exists()]
            elif self.is_frozen(name):
                found.append(f"{name} is frozen")
        if self.migrate.running():
            found.append("migrate")
        return found

    def is_frozen(self, name):
        try:
            return self.tool.is_frozen(name)
        except OSError:  # it has just gone, which the next look will tell
            return True

    def drafts(self):
        found = []
        for store in self.stores.values():
            with contextlib.suppress(FileNotFoundError):  # an empty directory goes meanwhile
                found += [str(draft) for draft in store.glob("*/.draft-*")]
        return found

    def problems(self, may_be_gone):
        copies = self.copies()
        if len(copies) > 1:
            return ["two copies"]
        if not copies and not may_be_gone:
            return ["no copy"]
        return self.left(copies[0] if copies else None)

    def assert_settled(self, may_be_gone=False, may_be_cut=False, may_repeat=False):
        deadline = time.monotonic() + SETTLED
        while (problems := self.problems(may_be_gone)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not problems, "; ".join(problems)
        copies = self.copies()
        if copies:
            before = len(self.ticks())
            wait_for(lambda: len(self.ticks()) > before + 2, "the program to go on")
            assert may_be_cut or self.client.goes_on(), f"the client: {self.client.failure}"
        self.assert_ticks(may_repeat)
        return copies[0] if copies else None

    def ticks(self):
        return (self.directory / "progress").read_text().split("\n")[:-1]

    def assert_ticks(self, may_repeat):
        ticks = self.ticks()
        if may_repeat:
            ticks = sorted(set(ticks), key=lambda tick: int(tick.split()[1]))
        assert ticks == [f"tick {number}" for number in range(1, len(ticks) + 1)], \
            "something was run twice"

    def clean_up(self):
        if self.client:
            self.client.stop()
        (self.directory / "stop").touch()
        deadline = time.monotonic() + 5
        while ((self.copies() or any(running.running() for running in self.tool.started))
               and time.monotonic() < deadline):
            time.sleep(0.02)
        self.tool.clean_up()
        for place in "ab":
            self.hosts.take_away(place)

    def assert_nothing_left(self):
        def left():
            return self.tool.leftovers() + self.drafts() + self.hosts.leftovers() + self.mounts()
        deadline = time.monotonic() + 10
        while left() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left(), "; ".join(left())
        self.tool.remove_traces()

    def mounts(self):
        with open("/proc/self/mountinfo") as mounts:
            return [line for line in mounts if str(self.directory) in line]

    def describe(self):
        said = [f"{run.process.args[-1][:40]}: {run.process.poll()}: {run.err[-600:]}"
                for run in self.tool.started]
        logs = (RUNTIME / ".log").glob(f"{self.tool.name}*/output.log")
        return "\n".join(said + [f"{log}: {log.read_text()[-600:]}" for log in logs])


class Campaign:
    """Cases beside each other, each on hosts that it has for itself."""

    def __init__(self, directory, name):
        self.directory, self.name = directory, name
        self.numbers = itertools.count(1)
        self.free = []
        self.stack = contextlib.ExitStack()
        self.failures = []

    def __enter__(self):
        for _ in range(AT_ONCE):
            self.free.append(self.stack.enter_context(Hosts()))
        return self

    def __exit__(self, *_):
        self.stack.close()

    def _one(self, label, phase, stopper, act, **keywords):
        hosts = self.free.pop()
        number = next(self.numbers)
        case = Case(hosts, self.directory / str(number), f"{self.name}-{number}", phase, stopper,
                    **keywords)
        try:
            try:
                case.start()
                if stopper:
                    case.reach()
                act(case)
            finally:
                said = case.describe()
                case.clean_up()
            case.assert_nothing_left()
            shutil.rmtree(case.directory)
            return True
        except NotThere:
            shutil.rmtree(case.directory)
            return False
        except Exception as error:  # the others are tried all the same
            self.failures.append(f"{label} ({number}): {error}\n{said}\n"
                                 + traceback.format_exc(limit=-3))
            hosts.remove()  # whatever is in them
            hosts = self.stack.enter_context(Hosts())
            return True
        finally:
            self.free.append(hosts)

    def run(self, cases):
        """Those that were tried: (label, phase, stopper, act) each."""
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            done = pool.map(lambda case: (case[0], self._one(*case)), cases)
            return [label for label, tried in done if tried]


class NotThere(Exception):
    """There is no such process in that phase."""


def kill(case, victim):
    pid = case.find(victim)
    if not pid:
        case.go_on()
        raise NotThere
    os.kill(pid, signal.SIGKILL)
    # A frozen process dies, too, but one that CRIU holds may need CRIU to go on.
    with contextlib.suppress(AssertionError):
        wait_for(lambda: tasks_are_gone(pid), "its death", timeout=1, interval=0.005)
    case.go_on()


def killing(victim):
    def act(case):
        kill(case, victim)
        case.assert_settled(may_be_gone=victim in MORTAL,
                            may_be_cut=(case.phase, victim) == BREAKS,
                            may_repeat=victim == REPEATS)
    return act


def cutting(number):
    """The relay, which is the link, does that from now on (tests/apps/relay.c)."""
    def act(case):
        relay = case.find("via")
        if not relay:
            case.go_on()
            raise NotThere
        os.kill(relay, number)
        case.go_on()
        case.assert_settled()
    return act


def signalling(victim, number):
    def act(case):
        pid = case.find(victim)
        if not pid:
            case.go_on()
            raise NotThere
        os.kill(pid, number)
        case.go_on()
        # The supervisor's is the program's.
        case.assert_settled(may_be_gone=victim == "supervisor")
    return act


def pausing(*victims):
    """They stand for longer than anybody has patience, and then go on."""
    def act(case):
        pids = [pid for pid in map(case.find, victims) if pid]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        if case.stopped not in pids:
            case.go_on()
        time.sleep(PAUSE)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        case.assert_settled()
    return act


CUTS = {"cut in the middle of a frame": signal.SIGUSR2, "silent": signal.SIGUSR1,
        "silent towards the target": signal.SIGTTIN, "silent towards the source": signal.SIGTSTP}
PAUSED = ["migrate:sent", "migrate:ready", "migrate:go", "receive:restored", "receive:go",
          "receive:decided"]


def kills():
    return [(f"{victim} killed at {phase}", phase, stopper, killing(victim))
            for phase, stopper in PHASES for victim in SOURCE + LINK + TARGET]


def cuts():
    return [(f"link {cut} at {phase}", phase, stopper, cutting(number))
            for cut, number in CUTS.items() for phase, stopper in PHASES]


def signals():
    return [(f"signal {number} for {victim} at {phase}", phase, stopper,
             signalling(victim, number))
            for victim, number in (("migrate", signal.SIGINT), ("supervisor", signal.SIGTERM))
            for phase, stopper in PHASES]


def pauses():
    return [(f"{' and '.join(victims)} paused at {phase}", phase, stopper, pausing(*victims))
            for victims in (("migrate", "receive"), ("supervisor",)) for phase, stopper in PHASES
            if phase in PAUSED]


@pytest.fixture
def campaign(directory):
    with Campaign(directory, f"t{os.getpid()}k") as made:
        yield made


def selected(cases):
    """MIGRATE_CASES=REGEX: only those whose label it is found in, to try one alone."""
    wanted = os.environ.get("MIGRATE_CASES", "")
    return [case for case in cases if re.search(wanted, case[0])]


@pytest.mark.limit(600)
def test_campaign(campaign, note_migrations):
    kinds = {"pauses": pauses(), "cuts": cuts(), "signals": signals(), "kills": kills()}
    # Those that wait most first, and the others beside them.
    tried = campaign.run(selected([case for cases in kinds.values() for case in cases]))
    for kind in ("kills", "cuts", "signals", "pauses"):
        labels = {case[0] for case in kinds[kind]}
        note_migrations(kind, sum(label in labels for label in tried))
    note_migrations(failures=campaign.failures)
    assert not campaign.failures, f"{len(campaign.failures)} of {len(tried)}:\n\n" + \
        "\n\n".join(campaign.failures)


# ---- other things that go wrong ----

@pytest.fixture
def case_at(directory):
    """case_at(PHASE, WHO): one migration, that has come so far."""
    with contextlib.ExitStack() as stack:
        made = []

        def make(phase=None, stopper=None, **keywords):
            hosts = stack.enter_context(Hosts())
            case = Case(hosts, directory / "case", f"t{os.getpid()}o", phase, stopper, **keywords)
            made.append(case)
            case.start()
            if stopper:
                case.reach()
            return case
        try:
            yield make
            for case in made:
                case.clean_up()
                case.assert_nothing_left()
        finally:
            for case in made:
                print(case.describe())
                case.clean_up()


def test_two_at_once(case_at):
    """The second is told, and does not wait."""
    case = case_at("migrate:hold", "migrate")
    begun = time.monotonic()
    done = case.moving.migrate(via=case.hosts.via("b", "--images", case.stores["b"]))
    assert done.returncode == 1 and "is just being migrated" in done.stderr
    assert time.monotonic() - begun < 3
    case.go_on()
    assert case.migrate.wait() == 0
    assert case.assert_settled() == "b"


def test_disk_full_on_the_target(case_at, directory):
    with mounted(directory / "full", "size=6m,mode=700") as full:
        case = case_at("migrate:dumped", "supervisor", store=full)
        with contextlib.suppress(OSError), open(full / "other", "wb", buffering=0) as other:
            while other.write(b"x" * 4096):
                pass
        case.go_on()
        assert case.migrate.wait() == 1 and "No space left" in case.migrate.err
        assert case.assert_settled() == "a"
        case.clean_up()


def test_restore_refused_by_the_target(case_at):
    """A file that the program has open is not there any more."""
    case = case_at("migrate:held", "supervisor")
    progress = case.directory / "progress"
    progress.rename(case.directory / "hidden")
    case.go_on()
    assert case.migrate.wait() == 1 and "progress" in case.migrate.err
    (case.directory / "hidden").rename(progress)
    assert case.assert_settled() == "a"


def test_port_in_use_on_the_target(case_at):
    case = case_at("migrate:hold", "migrate")
    with case.hosts.socket("b") as taken:
        taken.bind(("0.0.0.0", PORT))
        taken.listen()
        case.go_on()
        assert case.migrate.wait() == 1
        assert case.assert_settled() == "a"


def test_signal_for_the_program_meanwhile(case_at):
    """It is for the program here, and calls the migration off."""
    case = case_at("migrate:sent", "migrate")
    os.kill(case.supervisor.pid, signal.SIGTERM)
    assert case.supervisor.wait() == 128 + signal.SIGTERM
    case.go_on()
    assert case.migrate.wait() == 1 and "signal 15 came for the program" in case.migrate.err
    assert case.assert_settled(may_be_gone=True) is None


@pytest.mark.parametrize("victim", ["migrate", "supervisor"])
def test_command_that_works_only_where_it_was_given(case_at, victim):
    """Whoever has to ask runs it there, with what was in the environment."""
    case = case_at("migrate:go", "migrate", command="./receive")
    os.kill(case.find(victim), signal.SIGKILL)
    case.go_on()
    assert case.assert_settled() in "ab"


def test_outcome_is_remembered(case_at):
    """However late the source asks, where the copy ran it is told so."""
    case = case_at("receive:decided", "receive")
    os.kill(case.find("via"), signal.SIGUSR1)
    number = re.search(r"^[0-9a-f]{32}$", (RUNTIME / case.tool.name / "moving").read_text(), re.M)
    record = RUNTIME / ".arrivals" / number.group()
    long_ago = time.time() - 30 * 24 * 3600
    os.utime(record, (long_ago, long_ago))
    case.go_on()
    assert case.assert_settled() == "b"
    assert record.exists()
