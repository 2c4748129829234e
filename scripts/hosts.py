"""Hosts that are network namespaces of this machine, on one bridge.

    with Network(("one", "two", "client"), rate="1gbit") as network:
        subprocess.run(network["one"].enter("ip", "address"))

Names are this process's own, so several networks stand side by side; at the end, and
whatever happens before it, what still runs in the namespaces is killed and they are gone.
Needs root, iproute2, and nsenter and setsid of util-linux.
"""

import contextlib
import itertools
import os
import pathlib
import shlex
import signal
import subprocess
import time

NAMESPACES = pathlib.Path("/run/netns")
DEVICE = "eth0"
PREFIX = "10.7.0"
PLEN = 24
END_LIMIT_S = 10

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

numbers = itertools.count(1)


@contextlib.contextmanager
def undisturbed():
    """Signals that would end this come after it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(*words, **keywords):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True,
                          timeout=30, stdin=subprocess.DEVNULL, **keywords)
    assert done.returncode == 0, f"{shlex.join(map(str, words))}: {done.stderr.strip()}"
    return done.stdout


class Host:
    def __init__(self, namespace, title, address):
        self.namespace = namespace
        self.title = title
        self.address = address

    def enter(self, *words):
        """The command, to be run there.  Not `ip netns exec`: that makes a mount namespace,
        which CRIU would have to bring back."""
        return ["nsenter", f"--net={NAMESPACES / self.namespace}", "--", *map(str, words)]

    def run(self, *words):
        return run(*self.enter(*words))

    def ip(self, *words):
        return run("ip", "-n", self.namespace, *words)

    def add_address(self, address):
        self.ip("address", "add", f"{address}/{PLEN}", "dev", DEVICE)

    def addresses(self):
        return [line.split()[3].split("/")[0] for line in self.ip("-4", "-o", "address").splitlines()
                if DEVICE in line]

    def tables(self):
        """Of nftables, that are there."""
        return self.run("nft", "list", "tables").splitlines()

    def pids(self):
        return [int(pid) for pid in run("ip", "netns", "pids", self.namespace).split()]


class Network:
    """`delay` and `rate` as tc(8) spells them: of what each host sends.  `missing` says, in
    words, which of them this kernel cannot do; the network is without it then."""

    def __init__(self, titles, delay=None, rate=None):
        self.prefix = f"hosts{os.getpid()}-{next(numbers)}"
        self.delay = delay
        self.rate = rate
        self.missing = []
        self.switch = f"{self.prefix}-switch"
        self.hosts = {title: Host(f"{self.prefix}-{title}", title, f"{PREFIX}.{at}")
                      for at, title in enumerate(titles, 1)}

    def __getitem__(self, title):
        return self.hosts[title]

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def _build(self):
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", self.switch, "link", "set", "bridge", "up")
        for host in self.hosts.values():
            run("ip", "netns", "add", host.namespace)
            port = f"to-{host.title}"[:15]
            run("ip", "-n", self.switch, "link", "add", port, "type", "veth",
                "peer", "name", DEVICE, "netns", host.namespace)
            run("ip", "-n", self.switch, "link", "set", port, "master", "bridge", "up")
            host.ip("link", "set", "lo", "up")
            host.ip("link", "set", DEVICE, "up")
            host.add_address(host.address)
            self._shape(host)

    def _shape(self, host):
        parent = ["root", "handle", "1:"]
        if self.delay and self._try(host, *parent, "netem", "delay", self.delay, "limit", "100000"):
            parent = ["parent", "1:", "handle", "2:"]
        elif self.delay:
            self._lacks(f"a delay of {self.delay} (sch_netem)")
        if self.rate and not self._try(host, *parent, "tbf", "rate", self.rate,
                                       "burst", "256kb", "latency", "50ms"):
            self._lacks(f"a rate of {self.rate} (sch_tbf)")

    @staticmethod
    def _try(host, *words):
        done = subprocess.run(["tc", "-n", host.namespace, "qdisc", "add", "dev", DEVICE, *words],
                              capture_output=True, text=True, timeout=30)
        assert done.returncode == 0 or "kind is unknown" in done.stderr, done.stderr.strip()
        return done.returncode == 0

    def _lacks(self, what):
        if what not in self.missing:
            self.missing.append(what)

    def describe(self):
        """What the wires are like."""
        has = [f"{name} {value}" for name, value in (("delay", self.delay), ("rate", self.rate))
               if value and not any(f"a {name}" in lack for lack in self.missing)]
        return ", ".join(has) or "neither delay nor limit"

    def remove(self):
        with undisturbed():
            for namespace in (*(host.namespace for host in self.hosts.values()), self.switch):
                if (NAMESPACES / namespace).exists():
                    self._empty(namespace)
                    with contextlib.suppress(AssertionError):
                        run("ip", "netns", "delete", namespace)

    @staticmethod
    def _empty(namespace):
        deadline = time.monotonic() + END_LIMIT_S
        while time.monotonic() < deadline:
            pids = [int(pid) for pid in run("ip", "netns", "pids", namespace).split()]
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
