"""Two hosts and a client, made of network namespaces on a bridge; jobs that move between
the hosts, and a client that checks every reply.

The hosts share everything but the network: a job NAME that moves is NAME.2 over there,
and NAME again when it comes back.  All namespaces have the name of the process that made
them, so that those of a process which was killed are removed by the next.
"""

import contextlib
import ctypes
import itertools
import os
import pathlib
import re
import socket
import struct
import subprocess
import threading
import time

from harness import APPS, PROGRAM, children_of, comm_of, state_of, wait_for

PREFIX = "fzt"
NETNS = pathlib.Path("/run/netns")
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
numbers = itertools.count(1)

PLACES = "abc"  # the two hosts and the client
MOVED = "10.77.0.100"
MOVED_6 = "fd77::100"
MOVES = f"{MOVED}/24@eth0"
MOVES_6 = f"{MOVED_6}/64@eth0"
PORT = 6399


def call(*words, check=True):
    return subprocess.run(list(map(str, words)), check=check, capture_output=True, text=True,
                          timeout=30, stdin=subprocess.DEVNULL)


def remove_namespaces(owner):
    """Those that process `owner` has made."""
    for path in NETNS.glob(f"{PREFIX}{owner}-*"):
        call("ip", "netns", "del", path.name, check=False)


def remove_stale_namespaces():
    for path in NETNS.glob(f"{PREFIX}*-*-*"):
        owner = re.match(rf"{PREFIX}(\d+)-", path.name)
        if owner and not pathlib.Path(f"/proc/{owner.group(1)}").exists():
            call("ip", "netns", "del", path.name, check=False)


@contextlib.contextmanager
def inside(namespace):
    """This thread is in that network namespace."""
    with open("/proc/thread-self/ns/net") as before, open(NETNS / namespace) as there:
        if libc.setns(there.fileno(), CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(before.fileno(), CLONE_NEWNET)


class Hosts:
    """Hosts `a` and `b`; `c` is the client's."""

    def __init__(self):
        self.name = f"{PREFIX}{os.getpid()}-{next(numbers)}"

    def __enter__(self):
        remove_stale_namespaces()
        try:
            self._make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def _make(self):
        switch = f"{self.name}-s"
        call("ip", "netns", "add", switch)
        call("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        call("ip", "-n", switch, "link", "set", "br0", "up")
        for number, place in enumerate(PLACES, 1):
            namespace = self.namespace(place)
            call("ip", "netns", "add", namespace)
            call("ip", "-n", switch, "link", "add", f"v{place}", "type", "veth", "peer", "name",
                 "eth0", "netns", namespace)
            call("ip", "-n", switch, "link", "set", f"v{place}", "master", "br0", "up")
            for device in ("lo", "eth0"):
                call("ip", "-n", namespace, "link", "set", device, "up")
            call("ip", "-n", namespace, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            call("ip", "-n", namespace, "address", "add", f"fd77::{number}/64", "dev", "eth0",
                 "nodad")

    def remove(self):
        for place in "s" + PLACES:
            if (NETNS / f"{self.name}-{place}").exists():
                call("ip", "netns", "del", f"{self.name}-{place}", check=False)

    def namespace(self, place):
        return f"{self.name}-{place}"

    def on(self, place, *words):
        """A command in that place.  Not by `ip netns exec`, whose mount namespace CRIU
        refuses."""
        return ["nsenter", f"--net={NETNS / self.namespace(place)}", *map(str, words)]

    def call(self, place, *words, check=True):
        return call(*self.on(place, *words), check=check)

    def via(self, place, *options, environment=(), through=()):
        """A --via that receives there."""
        words = ["exec", *through, "env", "-u", "FREEZEPOINT_FAULT", *environment,
                 *self.on(place, PROGRAM, "receive", *options)]
        return " ".join(map(str, words))

    def lend(self, place, address=MOVES):
        text, _, device = address.partition("@")
        nodad = ["nodad"] if ":" in text else []
        self.call(place, "ip", "address", "add", text, "dev", device, *nodad)
        # The client may remember where it was before.
        call("ip", "-n", self.namespace("c"), "neighbour", "flush", "all")

    def take_away(self, place, address=MOVES):
        text, _, device = address.partition("@")
        self.call(place, "ip", "address", "del", text, "dev", device, check=False)

    def has_address(self, place, address=MOVED):
        shown = self.call(place, "ip", "-o", "address", "show", "dev", "eth0").stdout
        return f" {address}/" in shown

    def tables(self, place):
        return self.call(place, "nft", "list", "tables").stdout.split("\n")[:-1]

    def pids(self, place):
        return [int(pid) for pid in
                call("ip", "netns", "pids", self.namespace(place)).stdout.split()]

    # -- what the client's kernel sees --

    def watch_refusals(self):
        """Counts resets and unreachables that come to the client."""
        self.call("c", "nft", """
            add table inet seen
            add chain inet seen in { type filter hook prerouting priority -300 ; }
            add rule inet seen in tcp flags & rst == rst counter
            add rule inet seen in icmp type destination-unreachable counter
            add rule inet seen in icmpv6 type destination-unreachable counter""")

    def refusals(self):
        listed = self.call("c", "nft", "list", "table", "inet", "seen").stdout
        counts = [int(count) for count in re.findall(r"counter packets (\d+)", listed)]
        assert len(counts) == 3, listed
        return counts

    def socket(self, place="c", family=socket.AF_INET, kind=socket.SOCK_STREAM, protocol=0):
        with inside(self.namespace(place)):
            return socket.socket(family, kind, protocol)

    def connect(self, address=MOVED, port=PORT, timeout=10.0):
        """A connection from the client's place."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = self.socket("c", family)
        try:
            made.settimeout(timeout)
            made.connect((address, port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            made.close()
            raise
        return made

    def leftovers(self, at=None):
        """What is still there of migrations; the moved address may be `at` one place."""
        found = []
        for place in "ab":
            found += [f"{place}: {table}" for table in self.tables(place)]
            found += [f"{place}: process {pid} ({comm_of(pid)})" for pid in self.pids(place)]
            if place != at:
                found += [f"{place}: address {address}" for address in (MOVED, MOVED_6)
                          if self.has_address(place, address)]
        return found


class Counting(threading.Thread):
    """A client of tests/apps/counter.c: one connection, every reply checked."""

    def __init__(self, hosts, address=MOVED, port=PORT, pause=0.001, patience=60.0):
        super().__init__(daemon=True)
        self.connection = hosts.connect(address, port)
        self.connection.settimeout(patience)
        self.pause = pause
        self.replies = 0
        self.longest_gap = 0.0
        self.failure = None
        self._over = threading.Event()
        self.start()

    def run(self):
        try:
            self._count()
        except OSError as error:
            if not self._over.is_set():
                self.failure = f"after {self.replies} replies: {error!r}"

    def _count(self):
        while not self._over.is_set():
            begun = time.monotonic()
            self.connection.sendall(struct.pack("=Q", self.replies + 1))
            reply = self._receive()
            if reply != self.replies + 1:
                self.failure = f"reply {reply} instead of {self.replies + 1}"
                return
            self.replies += 1
            self.longest_gap = max(self.longest_gap, time.monotonic() - begun)
            time.sleep(self.pause)

    def _receive(self):
        got = b""
        while len(got) < 8:
            piece = self.connection.recv(8 - len(got))
            if not piece:
                raise ConnectionError("the connection was closed")
            got += piece
        return struct.unpack("=Q", got)[0]

    def goes_on(self, replies=5, timeout=30.0):
        """Whether that many further replies come."""
        before, deadline = self.replies, time.monotonic() + timeout
        while self.replies < before + replies:
            if self.failure or not self.is_alive() or time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def gap(self):
        """The longest since the last time, in seconds."""
        gap, self.longest_gap = self.longest_gap, 0.0
        return gap

    def stop(self):
        self._over.set()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.join(10)
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Moving:
    """A job that moves between two hosts."""

    def __init__(self, tool, hosts, moves=(MOVES,)):
        self.tool = tool
        self.hosts = hosts
        self.moves = list(moves)
        self.at = "a"
        self.names = {"a": tool.name, "b": f"{tool.name}.2"}
        for address in self.moves:
            hosts.lend("a", address)

    def start(self, *words, options=(), environment=()):
        """Runs the program on host a."""
        command = ["env", *environment, *self.tool.run_words("--restore", "never", *options, "--",
                                                            *words)]
        return self.tool.start(self.hosts.on("a", *command))

    def other(self):
        return "b" if self.at == "a" else "a"

    @property
    def name(self):
        return self.names[self.at]

    def words(self, *options, via=None):
        via = via or self.hosts.via(self.other(), "--images", self.tool.store)
        moves = [word for address in self.moves for word in ("--move-address", address)]
        return self.tool.command("migrate", self.name, "--via", via, *moves, *options)

    def begin(self, *options, via=None, environment=()):
        """A migration in the background."""
        command = self.words(*options, via=via)
        return self.tool.start(["env", *environment, *self.hosts.on(self.at, *command)])

    def migrate(self, *options, via=None, **keywords):
        """To the other host; what freezepoint said."""
        done = self.tool.call(self.hosts.on(self.at, *self.words(*options, via=via)), **keywords)
        if done.returncode == 0:
            self.moved()
        return done

    def moved(self):
        self.at = self.other()

    def end(self):
        """The program, wherever it is; nothing may be left of it."""
        for name in self.names.values():
            with contextlib.suppress(OSError):
                (self.tool.group(name) / "cgroup.kill").write_text("1")
        for running in self.tool.started:
            running.wait(20)
        wait_for(lambda: not self.tool.leftovers(), "everything to be gone")
        for address in self.moves:
            self.hosts.take_away(self.at, address)
        wait_for(lambda: not self.hosts.leftovers(), "the hosts to be as before", timeout=10)


def counter_words(port=PORT, threads=0, processes=0):
    return [APPS / "counter", port, threads, processes]


def descendants(pid):
    """All processes below it, itself excepted."""
    found = []
    for child in children_of(pid):
        found += [child, *descendants(child)]
    return found


def tasks_are_gone(pid):
    """Its files are closed with the last of its threads."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    return all(state_of(task) in ("", "X", "Z") for task in tasks)
