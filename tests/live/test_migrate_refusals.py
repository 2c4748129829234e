"""What cannot move is refused in words before anything stops, and a stream that is not
what it should be ends in a refusal; nothing is left of either.

Two hosts are two network namespaces, joined by a pair of interfaces; where the other host's
files or kernel are to differ, `receive` has mounts of its own.
"""

import contextlib
import itertools
import os
import pathlib
import re
import select
import shutil
import struct
import subprocess
import threading

import pytest

from harness import APPS, PROGRAM, PYTHON, RUNTIME, cgroup_mount, wait_for

HERE, THERE, MOVED = "10.44.0.1", "10.44.0.2", "10.44.0.9"
PORT = 4711
numbers = itertools.count()


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Hosts:
    """`a` has the address that moves; `b` is where it would go."""

    def __init__(self):
        mark = f"fzr{os.getpid()}n{next(numbers)}"
        self.names = {"a": f"{mark}a", "b": f"{mark}b"}
        for name in self.names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "eth0", "netns", self.names["a"], "type", "veth",
           "peer", "name", "eth0", "netns", self.names["b"])
        for host, addresses in (("a", (HERE, MOVED)), ("b", (THERE,))):
            for address in addresses:
                self.ip(host, "address", "add", f"{address}/24", "dev", "eth0")
            self.ip(host, "link", "set", "eth0", "up")

    def ip(self, host, *words):
        ip("-n", self.names[host], *words)

    def words(self, host, *words):
        return ["nsenter", f"--net=/run/netns/{self.names[host]}", *map(str, words)]

    def call(self, host, *words):
        return subprocess.run(self.words(host, *words), capture_output=True, text=True,
                              timeout=20, check=False)

    def state(self, host):
        """What nothing may be added to or taken from."""
        return (self.call(host, "ip", "-4", "-o", "address").stdout,
                self.call(host, "nft", "list", "tables").stdout)

    def end(self):
        for name in self.names.values():
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


class FreezeWatch(threading.Thread):
    """Whether a group was frozen, be it for a moment: the kernel tells of each change."""

    def __init__(self, group):
        super().__init__(daemon=True)
        self.changes, self.over = 0, False
        self.fd = os.open(group / "cgroup.events", os.O_RDONLY)
        os.read(self.fd, 100)
        self.start()

    def run(self):
        waiting = select.poll()
        waiting.register(self.fd, select.POLLPRI)
        while not self.over:
            if waiting.poll(20):
                self.changes += 1
                with contextlib.suppress(OSError):  # it is gone
                    os.pread(self.fd, 100, 0)

    def stop(self):
        self.over = True
        self.join()
        os.close(self.fd)
        return self.changes


SERVER = """
import socket, sys, time
def listen(host, port):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, port))
    s.listen()
    return s
keep = [eval(word) for word in sys.argv[1:]]
print("ready", flush=True)
time.sleep(600)
"""


class Case:
    """A job on host a, and a try to move it to b."""

    def __init__(self, tool, hosts):
        self.tool, self.hosts = tool, hosts
        self.store_there = tool.directory / "there"
        self.others = []

    def start(self, *expressions):
        script = self.tool.directory / "server.py"
        script.write_text(SERVER)
        self.running = self.tool.start(self.hosts.words("a", *self.tool.run_words(
            "--", PYTHON, script, *expressions)))
        self.running.wait_for_output("ready")
        wait_for(self.supervised, "the supervisor's socket")

    def supervised(self):
        return (RUNTIME / self.tool.name / "request.sock").exists()

    def other(self, host, *expressions):
        """Another program, of no job."""
        script = self.tool.directory / "other.py"
        script.write_text(SERVER)
        started = self.tool.start(self.hosts.words(host, PYTHON, script, *expressions))
        started.wait_for_output("ready")
        return started

    def via(self, *options, before="true", env=""):
        """Where `before` is run first, in a mount namespace of its own."""
        receive = " ".join([f"{env} exec {PROGRAM} receive --images {self.store_there}", *options])
        script = self.tool.directory / "via"
        script.write_text(f"#!/bin/sh\nset -e\n{before}\n{receive}\n")
        script.chmod(0o755)
        return (f"nsenter --net=/run/netns/{self.hosts.names['b']} "
                f"unshare --mount --propagation private {script}")

    def migrate(self, *options, via=None):
        return self.tool.call(self.tool.command("migrate", self.tool.name, "--via",
                                                via or self.via(), *options))

    def refused(self, *options, status=77, via=None):
        """What it said, one line each."""
        before = {host: self.hosts.state(host) for host in "ab"}
        watch = FreezeWatch(self.tool.group())
        done = self.migrate(*options, via=via)
        assert watch.stop() == 0, "it was frozen"
        assert done.returncode == status, done.stderr
        assert {host: self.hosts.state(host) for host in "ab"} == before
        assert self.running.running() and self.supervised()
        assert self.left() == []
        return done.stderr

    def left(self):
        own = [self.tool.cgroups / f"{self.tool.name}.2", RUNTIME / f"{self.tool.name}.2",
               RUNTIME / self.tool.name / "moving", RUNTIME / self.tool.name / "arriving"]
        drafts = list(self.store_there.glob("*")) if self.store_there.exists() else []
        return [str(path) for path in own if path.exists()] + [str(path) for path in drafts]

    def end(self):
        for running in self.tool.started:
            if running.running():
                running.terminate()


@pytest.fixture
def hosts():
    made = Hosts()
    yield made
    made.end()


@pytest.fixture
def case(freezepoint, hosts):
    made = Case(freezepoint, hosts)
    yield made
    made.end()


MOVE = ("--move-address", f"{MOVED}/24@eth0")


# ---- ports and addresses ----

@pytest.mark.parametrize("ours, theirs, what", [
    (f"listen('0.0.0.0', {PORT})", f"listen('{THERE}', {PORT})", f"TCP port 0.0.0.0:{PORT}"),
    (f"listen('0.0.0.0', {PORT})", f"listen('::', {PORT})", f"TCP port 0.0.0.0:{PORT}"),
    (f"listen('::', {PORT})", f"listen('127.0.0.1', {PORT})", f"TCP port [::]:{PORT}"),
    (f"socket.create_server(('', {PORT}), reuse_port=True)", f"listen('0.0.0.0', {PORT})",
     f"TCP port 0.0.0.0:{PORT}"),
    ("(u := socket.socket(type=socket.SOCK_DGRAM), u.bind(('', 4712)))",
     "(u := socket.socket(type=socket.SOCK_DGRAM), u.bind(('127.0.0.1', 4712)))",
     "UDP port 0.0.0.0:4712"),
])
def test_port_in_use(case, ours, theirs, what):
    case.start(ours)
    case.other("b", theirs)
    said = case.refused()
    assert f"{what} is in use here; 'ss -" in said and "nothing was stopped" in said


def test_address_that_stays(case):
    case.start(f"listen('{MOVED}', {PORT})")
    assert f"bound to {MOVED}, which is no address here; let it come along" in case.refused()


def test_connection_that_stays(case):
    case.other("b", f"listen('{THERE}', 4713)")
    case.start(f"(c := socket.socket(), c.bind(('{MOVED}', 0)), c.connect(('{THERE}', 4713)))")
    assert f"bound to {MOVED}, which is no address here" in case.refused()


def test_address_that_is_there_already(case):
    case.hosts.ip("b", "address", "add", f"{MOVED}/24", "dev", "lo")
    case.start(f"listen('0.0.0.0', {PORT})")
    assert f"{MOVED} is to come along and is here already, on lo" in case.refused(*MOVE)
    assert MOVED in case.hosts.call("b", "ip", "address").stdout


def test_interface_that_is_missing_or_down(case):
    case.start(f"listen('0.0.0.0', {PORT})")
    assert "interface 'eth7', which is not here; name one that is: receive --device" in \
        case.refused(*MOVE, via=case.via("--device", "eth7"))
    case.hosts.ip("b", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    assert "v0, which is down here: ip link set v0 up" in \
        case.refused(*MOVE, via=case.via("--device", "v0"))


def test_address_that_is_not_here(case):
    case.start(f"listen('0.0.0.0', {PORT})")
    said = case.refused("--move-address", "10.44.0.77/24@eth0", status=1)
    assert "10.44.0.77 is no address of eth0 here; 'ip address' lists them" in said


def test_address_that_would_take_others_along(case):
    for where in ("all", "eth0"):
        case.hosts.call("a", "sysctl", "-qw", f"net.ipv4.conf.{where}.promote_secondaries=0")
    case.start(f"listen('0.0.0.0', {PORT})")
    said = case.refused("--move-address", f"{HERE}/24@eth0", status=1)
    assert f"the kernel would take away {MOVED}, too" in said and "promote_secondaries=1" in said


def test_connection_to_another_program_here(case):
    case.other("a", "listen('127.0.0.1', 4714)")
    case.start("socket.create_connection(('127.0.0.1', 4714))")
    said = case.refused(status=1)
    assert "to 127.0.0.1:4714 (one of 1 such) leads to another program of this host" in said


# ---- files ----

def differing(case, change):
    """The job's program and a file that it has open; `change` is what is other there."""
    program = case.tool.directory / "program"
    shutil.copy(APPS / "heartbeat", program)
    data = case.tool.directory / "data"
    data.mkdir()
    (data / "read").write_text("1234567890")
    (data / "log").write_text("1234567890")
    (data / "state").write_text("1234567890")
    case.start(f"open('{data}/read')", f"open('{data}/log', 'a')", f"open('{data}/state', 'r+')",
               f"(p := open('{program}'), __import__('mmap').mmap(p.fileno(), 0, prot=1))")
    return case.via(before=change(case.tool.directory))


def bind(directory, name, contents):
    other = directory / f"other-{name.replace('/', '-')}"
    other.write_bytes(contents)
    other.chmod((directory / name).stat().st_mode & 0o7777)
    return f"mount --bind {other} {directory / name}"


def other_build(directory):
    """The same but for its build id."""
    contents = bytearray((directory / "program").read_bytes())
    at = contents.index(b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0") + 16
    contents[at] ^= 1
    return bind(directory, "program", contents)


@pytest.mark.parametrize("change, what", [
    (lambda d: f"mount -t tmpfs none {d}/data", r"'\S+/data/read' is missing here; copy it here"),
    (lambda d: bind(d, "data/read", b"12345"), r"'\S+/read' has 5 bytes here and 10 there; copy"),
    (lambda d: bind(d, "data/read", b"12345678901"), r"'\S+/read' has 11 bytes here and 10 there"),
    (lambda d: bind(d, "data/state", b"12345"), r"'\S+/state' has 5 bytes .* both sides have"),
    (other_build, r"'\S+/program' is another build here than there"),
    (lambda d: bind(d, "data/read", b"1234567890") + f"; chmod 600 {d}/data/read",
     r"'\S+/read' has the mode 0600 here and 0644 there; chmod it"),
    (lambda d: f"mkdir -p {d}/x; mount -t tmpfs none {d}/data; mkdir {d}/data/read",
     r"'\S+/read' is a directory here and a file there"),
], ids=["missing", "shorter", "longer", "written", "build", "mode", "kind"])
def test_file_that_differs(case, change, what):
    via = differing(case, change)
    assert re.search(what, case.refused(via=via))


def test_several_reasons_at_once(case):
    via = differing(case, lambda d: f"mount -t tmpfs none {d}/data")
    case.other("b", f"listen('0.0.0.0', {PORT})")
    said = case.refused(*MOVE, via=via)
    assert all(f"/data/{name}' is missing here" in said for name in ("read", "log", "state"))
    assert said.count("the other side refuses: ") == 3


def test_working_directory_that_is_missing(case):
    inner = case.tool.directory / "inner"
    inner.mkdir()
    case.start("__import__('os').chdir('inner')")
    said = case.refused(via=case.via(before=f"mount -t tmpfs none {case.tool.directory}; "
                                            f"mkdir -m 700 {case.store_there}"))
    assert f"'{inner}' is missing here; make it here" in said


def test_more_files_than_can_be_told(case):
    many = case.tool.directory / "many"
    many.mkdir()
    case.start("__import__('resource').setrlimit(7, (9000, 9000))",
               f"[open('{many}/' + 'x' * 190 + str(i), 'w') for i in range(6000)]")
    said = case.refused(status=1)
    assert re.search(r"it has \d+ files and 0 ports: more than the other side can be told", said)


def test_more_ports_than_can_be_held(case):
    case.start("__import__('resource').setrlimit(7, (9000, 9000))",
               "[listen('0.0.0.0', 20000 + i) for i in range(2500)]")
    said = case.refused(*MOVE, status=1)
    assert "the job has more than 2000 ports" in said


# ---- the machine ----

def fake(case, path, change):
    other = case.tool.directory / pathlib.Path(path).name
    other.write_text(change(pathlib.Path(path).read_text()))
    return case.via(before=f"mount --bind {other} {path}")


def test_lesser_processor(case):
    case.start("0")
    via = fake(case, "/proc/cpuinfo", lambda text: re.sub(r"\b(sse4_2|hypervisor)\b", "", text))
    assert "the processor here lacks what the program may have found there: sse4_2;" in \
        case.refused(via=via)


def test_little_memory(case):
    case.start("0")
    via = fake(case, "/proc/meminfo", lambda text: re.sub(r"MemAvailable: .*", "MemAvailable: 9 kB",
                                                          text))
    assert re.search(r"the program has \d+ MB in memory and 0 MB are free here", case.refused(via=via))


def test_little_room_on_disk(case):
    case.start("bytearray(b'x') * (20 << 20)")
    case.store_there.mkdir(mode=0o700)
    via = case.via(before=f"mount -t tmpfs -o size=8m,mode=700 none {case.store_there}")
    assert re.search(r"its image takes about \d+ MB and '\S+' has \d MB free; choose another place: "
                     r"receive --images", case.refused(via=via))


def wrapped_criu(case, version):
    criu = case.tool.directory / "criu"
    criu.write_text(f"#!/bin/sh\necho 'Version: {version}'\n")
    criu.chmod(0o755)
    return f"FREEZEPOINT_CRIU={criu}"


def test_older_criu(case):
    case.start("0")
    said = case.refused(via=case.via(env=wrapped_criu(case, "3.9")))
    assert re.search(r"CRIU 3.9 here cannot restore what CRIU \S+ there dumps; use the same", said)


def test_no_criu(case):
    case.start("0")
    said = case.refused(via=case.via(env="FREEZEPOINT_CRIU=/no/such/criu"))
    assert "the other side refuses: FREEZEPOINT_CRIU is '/no/such/criu'" in said


def test_no_nft(case):
    case.start(f"listen('0.0.0.0', {PORT})")
    hidden = "mount --bind /dev/null $(readlink -f /usr/sbin/nft)"
    assert "nft is missing or has ended; install nftables" in \
        case.refused(*MOVE, via=case.via(before=hidden))


def test_no_cgroups(case):
    case.start("0")
    said = case.refused(via=case.via(before=f"umount -l {cgroup_mount()}"))
    assert "the other side refuses: cgroup-freezer here: " in said


def test_disk_that_fills_while_the_image_comes(case):
    """What could not be known before: the program goes on, and it is told why."""
    case.start("bytearray(b'x') * (4 << 20)", "__import__('mmap').mmap(-1, 8 << 20)")
    case.store_there.mkdir(mode=0o700)
    full = (f"mount -t tmpfs -o size=80m,mode=700 none {case.store_there}; "
            f"(sleep 0.3; head -c 79M /dev/zero >{case.store_there}/.filler) & ")
    before = case.hosts.state("b")
    done = case.migrate("--before-freeze", "sleep 1.5", via=case.via(before=full))
    assert done.returncode == 1
    assert "the other side failed: write '" in done.stderr and "No space left" in done.stderr
    assert case.running.running() and case.supervised()
    assert case.hosts.state("b") == before and case.left() == []


# ---- what is no other side ----

@pytest.mark.parametrize("via, what", [
    ("echo hello", "print nothing else"),
    ("true", "the connection to the other side was cut"),
    ("/no/such/command", "the connection to the other side was cut"),
    ("cat", "answered with an odd hello|said something unexpected|is not freezepoint's"),
    ("head -c 100000 /dev/urandom", "is not freezepoint's stream"),
])
def test_via_that_is_no_freezepoint(case, via, what):
    case.start("0")
    said = case.refused(via=via, status=1)
    assert re.search(what, said)


def test_via_that_prints_something_first(case):
    case.start("0")
    said = case.refused(via=f"echo Welcome; {case.via()}", status=1)
    assert "does the command run 'freezepoint receive' and print nothing else?" in said


def test_no_such_job(freezepoint):
    done = freezepoint.call(freezepoint.command("migrate", "no-such-job", "--via", "true"))
    assert done.returncode == 1
    assert "no job 'no-such-job' runs; freezepoint ps lists what does" in done.stderr


def test_usage(freezepoint):
    for words in (["x"], ["x", "--via", "true", "--move-address", "10.0.0.1@eth0"],
                  ["--via", "true"]):
        assert freezepoint.call(freezepoint.command("migrate", *words)).returncode == 2


# ---- the receiver ----

def receive(case, contents):
    stream = case.tool.directory / "stream"
    stream.write_bytes(contents)
    with open(stream, "rb") as source:
        return subprocess.run(
            case.hosts.words("b", PROGRAM, "receive", "--images", case.store_there), stdin=source,
            capture_output=True, timeout=60, check=False, cwd=case.tool.directory)


@pytest.mark.parametrize("contents", [
    b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(5000), bytes(5000), b"\x89FZS",
    b"\x89FZS" + b"\xff" * 20, b"\x89FZS" + bytes(20), b"\x89FZS\0\0\x10\0" + bytes(200),
], ids=["nothing", "http", "random", "zeros", "cut", "lengths", "sum", "missing"])
def test_garbage(case, contents):
    before = case.hosts.state("b")
    done = receive(case, contents)
    assert done.returncode == 1
    assert case.hosts.state("b") == before and case.left() == []


HEADER = struct.Struct("<4sIII8s")


def frames(stream):
    """Where each begins, and the lengths of its message and payload."""
    at = 0
    while at < len(stream):
        _magic, message, payload, _zero, _sum = HEADER.unpack_from(stream, at)
        yield at, message, payload
        at += HEADER.size + message + payload


@pytest.mark.limit(240)
def test_recorded_stream_altered(case):
    """A migration that is called off at the last moment, said again with a bit changed in
    each kind of place, and cut off after each kind of message."""
    case.start(f"listen('0.0.0.0', {PORT})")
    recorded = case.tool.directory / "recorded"
    done = case.migrate("--before-resume", "exit 1", via=f"tee {recorded} | {case.via()}")
    assert done.returncode == 1 and "before-resume" in done.stderr
    wait_for(lambda: case.left() == [], "the other side's end")
    case.running.terminate()
    good = recorded.read_bytes()
    decided = {path.name for path in (RUNTIME / ".arrivals").iterdir()}
    number = next(name for name in re.findall(rb"[0-9a-f]{32}", good)
                  if name.decode() in decided).decode()
    before = case.hosts.state("b")

    def tried(contents):
        (RUNTIME / ".arrivals" / number).unlink(missing_ok=True)
        said = receive(case, contents)
        assert said.returncode == 1, said.stderr
        assert case.hosts.state("b") == before and case.left() == []
        return said.stderr.decode()

    # As it is it comes as far as it had: it stands ready, and hears that nothing comes of it.
    assert "before-resume" in tried(good)
    assert "is over; begin a new one" in receive(case, good).stderr.decode()
    found = list(frames(good))
    assert len(found) > 8
    chosen = found[:5] + found[-3:]
    count = 0
    for at, message, payload in chosen:
        middle = at + HEADER.size
        places = {at, at + 4, at + 8, at + 12, at + 16, middle, middle + message // 2,
                  middle + message, middle + message + payload - 1}
        for place in sorted(place for place in places if place < at + HEADER.size + message + payload):
            altered = bytearray(good)
            altered[place] ^= 1 << count % 8
            tried(bytes(altered))
            count += 1
    for at, message, payload in chosen:
        for cut in (at, at + 10, at + HEADER.size + message // 2):
            tried(good[:cut])
            count += 1
    # Twice, left out, or in another order.
    for first, second in ((0, 1), (1, 2), (2, 3), (-2, -1)):
        parts = [good[at:at + HEADER.size + message + payload] for at, message, payload in found]
        parts[first], parts[second] = parts[second], parts[first]
        tried(b"".join(parts))
        tried(b"".join(part for part in parts if part is not parts[first]))
        tried(b"".join(parts[:1] + parts))
        count += 3
    print(f"{count} altered streams were refused")
