"""A running program moves to another host, and its clients see a short gap."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from harness import APPS, PYTHON, ROOT, comm_of, wait_for
from hosts import (MOVED, MOVED_6, MOVES, MOVES_6, PORT, Counting, Hosts, Moving, counter_words)

MOVES_EACH = 10


@pytest.fixture
def hosts():
    with Hosts() as made:
        yield made


@pytest.fixture
def moving(freezepoint, hosts):
    made = Moving(freezepoint, hosts)
    yield made
    with contextlib.suppress(Exception):
        made.end()


def assert_ticks(directory, name="progress"):
    """Nothing was run twice, and nothing left out."""
    numbers = [int(line.split()[1]) for line in (directory / name).read_text().splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))
    return len(numbers)


def listening(hosts, place="a", port=PORT):
    def is_listening():
        shown = hosts.call(place, "ss", "-Hltn", f"sport = :{port}").stdout
        return bool(shown.strip())
    wait_for(is_listening, f"a server on port {port}")


def there_and_back(moving, check, times=MOVES_EACH):
    """Migrates so often; check() after each.  The gaps that check() returns."""
    gaps = []
    for _ in range(times):
        done = moving.migrate()
        assert done.returncode == 0, done.stderr
        gaps.append(check())
    return gaps


def tell(what, gaps):
    print(f"{what}: {len(gaps)} migrations, longest gaps of the client "
          f"{min(gaps) * 1000:.0f} to {max(gaps) * 1000:.0f} ms")


# ---- clients ----

class Checking(threading.Thread):
    """A client that checks what it gets over a connection."""

    def __init__(self, connection):
        super().__init__(daemon=True)
        self.connection = connection
        self.count, self.longest_gap, self.failure = 0, 0.0, None
        connection.settimeout(60)

    def gap_after(self, more):
        """The longest since the last time, in seconds, once so many more have come."""
        before = self.count
        wait_for(lambda: self.failure or self.count >= before + more, "the client to go on")
        assert not self.failure
        gap, self.longest_gap = self.longest_gap, 0.0
        return gap


class RedisLoad(Checking):
    """INCR at full speed over one connection, many under way at once; each reply checked."""

    BATCH = 32

    def __init__(self, hosts):
        super().__init__(hosts.connect())
        self.over = False
        self.start()

    def run(self):
        request = b"INCR counted\r\n" * self.BATCH
        answers = self.connection.makefile("rb")
        try:
            while not self.over:
                begun = time.monotonic()
                self.connection.sendall(request)
                for _ in range(self.BATCH):
                    line = answers.readline()
                    if line != b":%d\r\n" % (self.count + 1):
                        self.failure = f"{line} after {self.count}"
                        return
                    self.count += 1
                self.longest_gap = max(self.longest_gap, time.monotonic() - begun)
        except OSError as error:
            self.failure = repr(error)

    def stop(self):
        self.over = True
        self.join(10)
        self.connection.close()


def redis_ask(connection, *words):
    """One command; the reply's first line, or the string that it is."""
    connection.sendall(b"".join([b"*%d\r\n" % len(words)] + [b"$%d\r\n%s\r\n" % (len(word), word)
                                                          for word in words]))
    answer = connection.makefile("rb")
    line = answer.readline().strip()
    return answer.read(int(line[1:]) + 2)[:-2] if line.startswith(b"$") else line


class Lines(Checking):
    """Reads lines that must be numbered without a gap: what a server streams."""

    def __init__(self, connection, request, pattern):
        super().__init__(connection)
        self.pattern = re.compile(pattern)
        connection.sendall(request)
        self.start()

    def run(self):
        last = time.monotonic()
        try:
            for line in self.connection.makefile("rb"):
                found = self.pattern.match(line)
                if not found:
                    continue
                if int(found.group(1)) != self.count + 1:
                    self.failure = f"{line} after {self.count}"
                    return
                self.count += 1
                now = time.monotonic()
                self.longest_gap, last = max(self.longest_gap, now - last), now
            self.failure = f"the end after {self.count}"
        except (OSError, ValueError) as error:
            self.failure = repr(error)


# ---- the three ----

@pytest.mark.limit(180)
def test_redis_under_load(moving, hosts):
    moving.start("redis-server", "--port", PORT, "--save", "", "--protected-mode", "no",
                 "--bind", "0.0.0.0", "--enable-debug-command", "yes", environment=["MALLOC_ARENA_MAX=1"])
    listening(hosts)
    other = hosts.connect()
    redis_ask(other, b"DEBUG", b"POPULATE", b"60000", b"k", b"1000")
    digest = redis_ask(other, b"GET", b"k:59999")
    hosts.watch_refusals()
    load = RedisLoad(hosts)
    load.gap_after(500)
    gaps = there_and_back(moving, lambda: load.gap_after(500))
    assert redis_ask(other, b"GET", b"k:59999") == digest
    assert redis_ask(other, b"DBSIZE") == b":60001"
    load.stop()
    assert redis_ask(other, b"GET", b"counted") == b"%d" % load.count
    assert hosts.refusals() == [0, 0, 0]
    other.close()
    tell(f"redis, 64 MB, {load.count} replies", gaps)
    moving.end()


NODE = """
let count = 0, event = 0;
const server = require('http').createServer((request, answer) => {
    if (request.url == '/events') {
        answer.writeHead(200, {'Content-Type': 'text/event-stream'});
        setInterval(() => answer.write(`data: ${++event}\\n\\n`), 5);
    } else {
        answer.end(String(++count));
    }
});
server.keepAliveTimeout = 600000;
server.listen(6399, '0.0.0.0');
"""


class KeepAlive(threading.Thread):
    """HTTP requests one after the other, over one connection."""

    def __init__(self, connection):
        super().__init__(daemon=True)
        self.connection = connection
        self.replies, self.failure, self.over = 0, None, False
        connection.settimeout(60)
        self.start()

    def run(self):
        answer = self.connection.makefile("rb")
        try:
            while not self.over:
                self.connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                length = 0
                while (line := answer.readline().strip()):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split()[1])
                body = answer.read(length)
                if body != b"%d" % (self.replies + 1):
                    self.failure = f"{body} after {self.replies}"
                    return
                self.replies += 1
        except OSError as error:
            self.failure = repr(error)

    def stop(self):
        self.over = True
        self.join(10)


@pytest.mark.limit(120)
def test_node_keep_alive_and_events(moving, hosts):
    (moving.tool.directory / "server.js").write_text(NODE)
    moving.start("node", "server.js")
    listening(hosts)
    hosts.watch_refusals()
    events = Lines(hosts.connect(), b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n", rb"data: (\d+)")
    requests = KeepAlive(hosts.connect())
    events.gap_after(20)

    def check():
        before = requests.replies
        wait_for(lambda: requests.failure or requests.replies > before + 20, "node to answer")
        assert not requests.failure
        return events.gap_after(20)
    gaps = there_and_back(moving, check)
    requests.stop()
    assert hosts.refusals() == [0, 0, 0] and requests.failure is None
    tell(f"node, {requests.replies} replies, {events.count} events", gaps)
    moving.end()


STREAMING = """
import itertools, socket, time
listener = socket.create_server(("0.0.0.0", 6399))
connection = listener.accept()[0]
for number in itertools.count(1):
    connection.sendall(b"%08d " % number + b"x" * 5000 + b"\\n")
    time.sleep(0.003)
"""


@pytest.mark.limit(120)
def test_python_slow_download(moving, hosts):
    moving.start(PYTHON, "-c", STREAMING)
    listening(hosts)
    hosts.watch_refusals()
    download = Lines(hosts.connect(), b"", rb"(\d{8}) x{5000}$")
    download.gap_after(20)
    gaps = there_and_back(moving, lambda: download.gap_after(20))
    assert hosts.refusals() == [0, 0, 0]
    tell(f"python, {download.count * 5010 / 1e6:.1f} MB", gaps)
    moving.end()


# ---- programs ----

def test_processes_and_threads(moving, hosts):
    moving.start(*counter_words(threads=4, processes=3))
    listening(hosts)
    hosts.watch_refusals()
    with Counting(hosts) as client:
        assert client.goes_on()
        client.gap()

        def check():
            assert client.goes_on(50), client.failure
            return client.gap()
        gaps = there_and_back(moving, check, times=4)
        assert len(moving.tool.pids(moving.name)) == 4
        assert hosts.refusals() == [0, 0, 0]
    for name in ("progress", "progress.1", "progress.2", "progress.3"):
        assert assert_ticks(moving.tool.directory, name) > 20
    tell("four processes", gaps)
    (moving.tool.directory / "stop").touch()
    wait_for(lambda: not moving.tool.leftovers(), "the program to end")
    moving.end()


def test_program_without_connections(freezepoint, hosts):
    """No packet is kept away, no address moved."""
    moving = Moving(freezepoint, hosts, moves=())
    moving.start(APPS / "steady", 1, 2)
    progress = freezepoint.directory / "progress"
    wait_for(lambda: progress.exists() and progress.read_text().count("tick") > 3, "it to run")
    for _ in range(2):
        assert moving.migrate().returncode == 0
        before = progress.read_text().count("tick")
        wait_for(lambda: progress.read_text().count("tick") > before + 3, "it to go on")
    assert_ticks(freezepoint.directory)
    moving.end()


def test_status_and_output_of_the_source(moving, hosts):
    """The supervisor that has nothing to supervise any more says so, and ends with 0."""
    running = moving.start(*counter_words())
    listening(hosts)
    done = moving.migrate()
    assert done.returncode == 0 and re.search(
        rf"migrated {moving.tool.name}: it runs there as {moving.name}; it stood for [\d.]+ ms",
        done.stderr)
    assert running.wait() == 0
    assert "migrated: the program runs on the other side" in running.err
    moving.end()


# ---- points ----

CALLS = """
import os, time
print("up", flush=True)
for call in range(1, 100000):
    os.times()
    open("calls", "a").write(f"{call}\\n")
    time.sleep(0.01)
"""


def calls(directory):
    try:
        return (directory / "calls").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []


@pytest.fixture
def calling(freezepoint, hosts):
    made = Moving(freezepoint, hosts, moves=())
    yield made
    with contextlib.suppress(Exception):
        made.end()


def run_calls(moving, *options):
    running = moving.start(PYTHON, "-c", CALLS, options=["--at", *options])
    wait_for(lambda: calls(moving.tool.directory), "the program to call")
    return running


def assert_calls(moving):
    made = calls(moving.tool.directory)
    assert made == [str(call) for call in range(1, len(made) + 1)]
    return len(made)


def test_points_go_along(calling):
    """--every and --max as before: each checkpoint is made once, wherever."""
    run_calls(calling, "times#20", "--every", 20, "--max", 5)
    made = calling.tool.generations
    wait_for(lambda: len(made()) >= 2, "two checkpoints")
    assert calling.migrate().returncode == 0
    wait_for(lambda: len(made()) >= 4, "two further ones")
    assert calling.migrate().returncode == 0
    wait_for(lambda: len(made()) == 5, "the last one")
    before = len(calls(calling.tool.directory))
    wait_for(lambda: len(calls(calling.tool.directory)) > before + 45, "further calls")
    assert len(made()) == 5
    assert_calls(calling)
    calling.end()


def test_no_checkpoint_is_left(calling):
    """Where --max has been reached no further one is made over there."""
    run_calls(calling, "times#5", "--every", 5, "--max", 2)
    wait_for(lambda: len(calling.tool.generations()) == 2, "both checkpoints")
    assert calling.migrate().returncode == 0
    before = len(calls(calling.tool.directory))
    wait_for(lambda: len(calls(calling.tool.directory)) > before + 20, "further calls")
    assert len(calling.tool.generations()) == 2
    calling.end()


def test_at_the_next_point(calling):
    run_calls(calling, "times#100", "--every", 100)
    wait_for(lambda: len(calling.tool.generations()) == 1, "the first checkpoint")
    done = calling.migrate("--at", "next")
    assert done.returncode == 0 and "waiting for the next point" in done.stderr
    assert len(calling.tool.generations()) == 1
    wait_for(lambda: len(calling.tool.generations()) == 2, "the next checkpoint")
    assert len(calls(calling.tool.directory)) >= 299
    assert_calls(calling)
    calling.end()


def test_at_the_next_point_after_a_failure(calling):
    """The point is as good as any other afterwards."""
    run_calls(calling, "times#50", "--every", 50)
    done = calling.migrate("--at", "next", via="printf %100s hello; cat >/dev/null")
    assert done.returncode == 1 and "not freezepoint's stream" in done.stderr
    via = calling.hosts.via("b", "--images", calling.tool.store,
                            environment=["FREEZEPOINT_FAULT=receive:restored=kill"])
    done = calling.migrate("--at", "next", via=via)
    assert done.returncode == 1, done.stderr
    done = calling.migrate("--at", "next")
    assert done.returncode == 0, done.stderr
    before = len(calls(calling.tool.directory))
    wait_for(lambda: len(calls(calling.tool.directory)) > before + 20, "it to go on")
    assert_calls(calling)
    calling.end()


def test_no_point_that_could_be_due(moving, hosts):
    moving.start(*counter_words())
    listening(hosts)
    done = moving.migrate("--at", "next")
    assert done.returncode == 1 and "no further point that could be due" in done.stderr
    moving.end()


# ---- packets ----

def ping_losses(hosts, address, moving, times=4):
    """How many of the pings sent while it moved there and back were not answered."""
    family = "-6" if ":" in address else "-4"
    ping = subprocess.Popen(hosts.on("c", "ping", family, "-i", "0.02", "-W", "1", address),
                            stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(0.3)
        there_and_back(moving, lambda: time.sleep(0.3), times)
    finally:
        ping.send_signal(signal.SIGINT)
        said = ping.communicate(timeout=10)[0]
    sent, answered = map(int, re.search(r"(\d+) packets transmitted, (\d+) received",
                                        said).groups())
    assert sent > 50 and "+" not in said.split("---")[-1], said
    return sent, sent - answered


@pytest.mark.parametrize("address", [MOVED, MOVED_6])
def test_address_is_reached_at_once(freezepoint, hosts, address):
    """The neighbours are told where it is: what is lost is what it stood for."""
    moving = Moving(freezepoint, hosts, moves=[MOVES_6 if ":" in address else MOVES])
    moving.start(*counter_words())
    listening(hosts)
    with Counting(hosts, address) as client:
        assert client.goes_on()
        sent, lost = ping_losses(hosts, address, moving)
        assert client.goes_on(), client.failure
        print(f"{address}: {lost} of {sent} pings lost in 4 migrations, {client.gap():.3f} s")
        # Standing, and another 20 ms on either side, by four.
        assert lost < sent / 2
        assert client.longest_gap < 5
    moving.end()


def test_both_addresses_go_along(freezepoint, hosts):
    moving = Moving(freezepoint, hosts, moves=[MOVES, MOVES_6])
    moving.start(*counter_words())
    listening(hosts)
    with Counting(hosts, MOVED) as four, Counting(hosts, MOVED_6) as six:
        there_and_back(moving, lambda: None, 2)
        assert four.goes_on() and six.goes_on(), (four.failure, six.failure)
        assert moving.migrate().returncode == 0
        for address in (MOVED, MOVED_6):
            assert hosts.has_address("b", address) and not hosts.has_address("a", address)
        assert four.goes_on() and six.goes_on(), (four.failure, six.failure)
    moving.end()


@pytest.mark.limit(120)
def test_new_connections_meanwhile(moving, hosts):
    """They are made a moment later, and none is refused."""
    moving.start(*counter_words())
    listening(hosts)
    hosts.watch_refusals()
    over, made, failures = threading.Event(), [], []

    def connect_on_and_on():
        while not over.is_set():
            try:
                with hosts.connect(timeout=20) as connection:
                    connection.settimeout(20)
                    connection.sendall(b"01234567")
                    if len(connection.recv(8)) != 8:
                        failures.append("no reply")
                    made.append(1)
            except OSError as error:
                failures.append(repr(error))
            time.sleep(0.004)
    threads = [threading.Thread(target=connect_on_and_on, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(made) > 5, "the first connections")
    there_and_back(moving, lambda: time.sleep(0.3), 6)
    over.set()
    for thread in threads:
        thread.join(30)
    print(f"{len(made)} connections made during 6 migrations")
    assert not failures, failures
    assert hosts.refusals() == [0, 0, 0]
    moving.end()


# ---- ssh ----

class Sshd:
    """An sshd of our own, on host b, with keys of its own."""

    PORT = 2222

    def __init__(self, directory, hosts):
        self.directory = directory / "ssh"
        self.hosts = hosts
        self.directory.mkdir(mode=0o700)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f",
                            self.directory / key], check=True)
        shared = pathlib.Path("/run/sshd")
        self.made = None if shared.exists() else shared
        shared.mkdir(mode=0o755, exist_ok=True)
        (self.directory / "authorized").write_text((self.directory / "user.pub").read_text())
        host_key = (self.directory / "host.pub").read_text()
        for address, place in (("10.77.0.1", "a"), ("10.77.0.2", "b")):
            (self.directory / f"known-{place}").write_text(f"[{address}]:{self.PORT} {host_key}")
        (self.directory / "config").write_text(f"""
Port {self.PORT}
HostKey {self.directory}/host
AuthorizedKeysFile {self.directory}/authorized
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
""")
        sshd = next(path for path in ("/usr/sbin/sshd", "/sbin/sshd") if os.path.exists(path))
        self.running = [subprocess.Popen(
            hosts.on(place, sshd, "-f", self.directory / "config", "-D", "-e"),
            stderr=open(self.directory / f"log-{place}", "w")) for place in "ab"]

    def via(self, place, store):
        address = {"a": "10.77.0.1", "b": "10.77.0.2"}[place]
        return (f"ssh -F none -p {self.PORT} -i {self.directory}/user -o BatchMode=yes "
                f"-o UserKnownHostsFile={self.directory}/known-{place} root@{address} "
                f"{ROOT}/build/freezepoint receive --images {store}")

    def stop(self):
        for running in self.running:
            running.terminate()
            running.wait(10)
        if self.made:
            with contextlib.suppress(OSError):
                self.made.rmdir()


def test_through_ssh(moving, hosts):
    moving.start(*counter_words())
    listening(hosts)
    sshd = Sshd(moving.tool.directory, hosts)
    try:
        for place in "ab":
            listening(hosts, place, Sshd.PORT)
        with Counting(hosts) as client:
            assert client.goes_on()
            for _ in range(2):
                done = moving.migrate(via=sshd.via(moving.other(), moving.tool.store))
                assert done.returncode == 0, done.stderr
                assert client.goes_on(50), client.failure
    finally:
        sshd.stop()
    moving.end()
