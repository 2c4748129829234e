"""Moving a program and its connections from one host of a network (scripts/hosts.py) to
another: by freezepoint, and with the stock criu command as an administrator who knows it
well would script that.  What the client saw of it.

Both send the image over the network, by a socat on each host, as they would by ssh.
"""

import array
import contextlib
import itertools
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

from harness import PROGRAM, PYTHON, Freezepoint, children_of, wait_for
from hosts import DEVICE, PLEN, run

SCRIPTS = pathlib.Path(__file__).resolve().parent
MOVING = "10.7.0.100"  # the address that goes along with the program
RECEIVE_PORT = 7000
MOVE_LIMIT_S = 60
SOCAT = "socat -b 1048576"


class Move:
    """One: when, on the monotonic clock in ns, and its figures in ms and bytes."""

    def __init__(self, began_ns, ended_ns, frozen, size):
        self.began_ns = began_ns
        self.ended_ns = ended_ns
        self.frozen = frozen
        self.size = size
        self.gap = None
        self.gap_ns = None  # when it began

    @property
    def total(self):
        return (self.ended_ns - self.began_ns) / 1e6


class Mover:
    """A program that runs on one of two hosts."""

    def __init__(self, network, titles, directory, program):
        self.network = network
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True)
        self.program = program
        self.here, self.there = (network[title] for title in titles)
        self.output = self.directory / "program.out"
        self.said = self.directory / "said.txt"
        self.listeners = []

    def enter(self, host, *words):
        return host.enter(*words)

    def _listen(self, host, words):
        """Whoever connects to that host talks to such a command."""
        script = self.directory / f"serve-{host.title}"
        script.write_text("#!/bin/bash\nexec " + shlex.join(map(str, words)) + "\n")
        script.chmod(0o700)
        with open(self.said, "ab") as out:
            self.listeners.append(subprocess.Popen(
                self.enter(host, *shlex.split(SOCAT), f"TCP-LISTEN:{RECEIVE_PORT},reuseaddr,fork,nodelay",
                           f"EXEC:{script},pipes"),
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.env(),
                start_new_session=True))
        wait_for(lambda: f":{RECEIVE_PORT} " in host.run("ss", "-Hltn"), "socat to listen")

    def env(self):
        return dict(os.environ)

    def reach(self, host):
        """The command that does."""
        return f"{SOCAT} - TCP:{host.address}:{RECEIVE_PORT},nodelay"

    def _turn_round(self):
        self.here, self.there = self.there, self.here

    def _await_answer(self):
        wait_for(lambda: self.program.port in [int(line.split()[3].rsplit(":", 1)[1]) for line in
                                               self.here.run("ss", "-Hltn").splitlines()],
                 f"{self.program.name} to listen", 30)

    def _end_listeners(self):
        for listener in self.listeners:
            listener.terminate()
            listener.wait(10)


class Ours(Mover):
    """freezepoint migrate."""

    def start(self, name, criu=None):
        self.tool = Freezepoint(self.directory, name)
        self.tool.env["FREEZEPOINT_IMAGES"] = str(self.tool.store)
        if criu:
            self.tool.env["FREEZEPOINT_CRIU"] = criu
        for host in (self.here, self.there):
            self._listen(host, [PROGRAM, "receive"])
        self.here.add_address(MOVING)
        self.tool.start(self.here.enter(*self.run_words()))
        self._await_answer()

    def run_words(self):
        return self.tool.command("run", "--name", self.tool.name, "--", *self.program.command())

    def env(self):
        return self.tool.env

    def job(self):
        """Its name, which has a number where another host of this machine had it just now."""
        return next(group.name for group in self.tool._own(self.tool.cgroups)
                    if self.tool.pids(group.name))

    def migrate_words(self):
        return self.tool.command("migrate", self.job(), "--via", self.reach(self.there),
                                 "--move-address", f"{MOVING}/{PLEN}@{DEVICE}")

    def move(self):
        words = self.here.enter(*self.migrate_words())
        began = time.monotonic_ns()
        done = self.tool.call(words, timeout=MOVE_LIMIT_S)
        ended = time.monotonic_ns()
        assert done.returncode == 0, done.stderr
        found = re.search(r"stood for ([\d.]+) ms.*, ([\d.]+) MB sent", done.stderr)
        assert found, f"freezepoint migrate said: {done.stderr}"
        self._turn_round()
        return Move(began, ended, float(found[1]), float(found[2]) * 1e6)

    def end(self):
        self._end_listeners()
        if not hasattr(self, "tool"):
            return
        self.tool.clean_up()
        self.tool.assert_clean()


# On the host that it leaves.  The other one is reached beforehand, as is freezepoint's.
# The rules by which criu keeps packets away while it dumps stay; they must go before the
# program comes back.
STOCK_SEND = """
rm -rf $IMAGES && mkdir $IMAGES
{
    $CRIU dump -t $PID -D $IMAGES -o dump.log --tcp-established --skip-in-flight \\
        --network-lock nftables --manage-cgroups=ignore --file-locks >&2 || exit 1
    echo $EPOCHREALTIME >$DIRECTORY/dumped
    ip address del $ADDRESS dev $DEVICE
    tar -C $IMAGES -b 2048 -cf - .
} | $REACH || exit 1
nft list tables inet | grep CRIU | sed 's/^/delete /' | nft -f -
cp $IMAGES/stats-dump $DIRECTORY
du -sb --apparent-size $IMAGES >$DIRECTORY/size
rm -rf $IMAGES
"""

# On the other one.  The address is there in time, but nobody hears of it, and packets to
# it are dropped, which a kernel that has no such connection yet would answer with RST.
STOCK_RECEIVE = """
rm -rf $IMAGES && mkdir $IMAGES
nft -f - <<END
table inet moving {
    chain input { type filter hook input priority -300; ip daddr $HOST drop; }
}
table arp moving {
    chain input { type filter hook input priority 0; arp operation request arp daddr ip $HOST drop; }
}
END
ip address add $ADDRESS dev $DEVICE
tar -C $IMAGES -xf - &&
    $CRIU restore -d -D $IMAGES -o restore.log --tcp-established --manage-cgroups=ignore \\
        --file-locks --action-script $ACTION </dev/null >&2 &&
    echo $EPOCHREALTIME >$DIRECTORY/restored.new && mv $DIRECTORY/restored.new $DIRECTORY/restored
"""

# Before the program goes on: its first words would be lost otherwise, and what the client
# answers would go to where it was.  arping sends at once, and then waits for a second.
STOCK_ACTION = """
case $CRTOOLS_SCRIPT_ACTION in
post-restore) arping -q -U -c 1 -I $DEVICE $HOST </dev/null >/dev/null 2>&1 & ;;
pre-resume)
    nft 'delete table inet moving; delete table arp moving'
    : >$DIRECTORY/resumed
    ;;
esac
"""


class Stock(Mover):
    """criu dump, tar, criu restore.  As two hosts have, each has its own process numbers, a
    tmpfs for images, and what criu found out about the kernel (/run/criu.kdat)."""

    PID = 20000  # the program's; few enough of its hosts' get so far

    def start(self, _name, criu):
        for name, text in (("send", STOCK_SEND), ("receive", STOCK_RECEIVE), ("action", STOCK_ACTION)):
            script = self.directory / name
            script.write_text(f"#!/bin/{'sh' if name == 'action' else 'bash'}\n{text}")
            script.chmod(0o700)
        self.variables = {
            "CRIU": criu, "DIRECTORY": str(self.directory), "IMAGES": "/run/images",
            "ADDRESS": f"{MOVING}/{PLEN}", "HOST": MOVING, "DEVICE": DEVICE,
            "ACTION": str(self.directory / "action")}
        self.inits = {}
        for host in (self.here, self.there):
            self._start_init(host)
            self._listen(host, [self.directory / "receive"])
        self.here.add_address(MOVING)
        self._start_program()
        self._await_answer()

    def _start_init(self, host):
        """bash takes note of the ends of those that have no parent."""
        init = subprocess.Popen(
            host.enter("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c",
                       'mount -t tmpfs tmpfs /run && "$0" check >/dev/null 2>&1; echo; read -r end',
                       self.variables["CRIU"]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self.inits[host] = init
        assert init.stdout.readline(), "a host of its own cannot be had for criu"

    def enter(self, host, *words):
        init = children_of(self.inits[host].pid)[0]
        return ["nsenter", "-t", str(init), "--net", "--pid", "--mount", "--", *map(str, words)]

    def _start_program(self):
        """As a service, nobody's child but init's."""
        command = shlex.join(map(str, self.program.command()))
        run(*self.enter(self.here, "sh", "-c", f"""
            echo {self.PID - 1} >/proc/sys/kernel/ns_last_pid
            exec setsid -f sh -c 'cd {self.program.directory}; echo $$ >{self.directory}/pid; exec {command}' \\
                </dev/null >>{self.output} 2>&1"""))
        wait_for(lambda: (self.directory / "pid").exists(), "the pid")

    def env(self):
        return {**os.environ, **self.variables}

    def _moment(self, name):
        """What a script noted of the wall clock, on the monotonic one, in ns."""
        offset = time.time_ns() - time.monotonic_ns()
        return int(float((self.directory / name).read_text()) * 1e9) - offset

    def move(self):
        for name in ("dumped", "resumed", "restored"):
            (self.directory / name).unlink(missing_ok=True)
        env = {**self.env(), "PID": (self.directory / "pid").read_text().strip(),
               "REACH": self.reach(self.there)}
        began = time.monotonic_ns()
        done = subprocess.run(self.enter(self.here, self.directory / "send"), env=env,
                              timeout=MOVE_LIMIT_S, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL)
        assert done.returncode == 0, self._complain(done.stderr)
        wait_for(lambda: (self.directory / "restored").exists() or self._check(), "criu restore")
        self._turn_round()
        frozen_ns = self._moment("dumped") - frozen_by_criu(self.directory) * 1e6
        resumed_ns = ((self.directory / "resumed").stat().st_mtime_ns - time.time_ns()
                      + time.monotonic_ns())
        return Move(began, self._moment("restored"), (resumed_ns - frozen_ns) / 1e6,
                    int((self.directory / "size").read_text().split()[0]))

    def _check(self):
        said = self.said.read_text(errors="replace")
        assert "status 1" not in said, self._complain(said)

    def _complain(self, said):
        logs = run(*self.enter(self.there, "sh", "-c", "tail -n 5 /run/images/*.log || true"))
        return f"criu could not: {said}{logs}"

    def end(self):
        self._end_listeners()
        for init in getattr(self, "inits", {}).values():
            init.kill()
            init.communicate()


def frozen_by_criu(images):
    """freezing_time + frozen_time of CRIU's stats-dump, in ms: the first two varints
    of the message in the first field (images/stats.proto), behind 12 bytes of
    header."""
    numbers = varints((images / "stats-dump").read_bytes()[12:])
    assert next(numbers) == 1 << 3 | 2 and next(numbers), "stats-dump is not as expected"
    pairs = dict(itertools.islice(zip(numbers, numbers), 2))
    return (pairs[1 << 3] + pairs[2 << 3]) / 1e3


def varints(data):
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0


# -- the programs --


# These count their requests.
NODE_SOURCE = """
let count = 0;
require('http').createServer((request, answer) => answer.end(String(++count)))
    .listen(Number(process.argv[2]));
"""

PYTHON_SOURCE = """
import http.server, sys
class Counter(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    count = 0
    def do_GET(self):
        Counter.count += 1
        body = b"%d" % Counter.count
        self.send_response(200)
        self.send_header("Content-Length", len(body))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Counter).serve_forever()
"""


class MovingProgram:
    """What is moved; `kind` is what the client speaks."""

    kind = "http"

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)


class MovingRedis(MovingProgram):
    name = kind = "redis"
    port = 6379

    def command(self):
        return ["redis-server", "--port", str(self.port), "--bind", "0.0.0.0", "--save", "",
                "--protected-mode", "no", "--dir", str(self.directory)]


class MovingScript(MovingProgram):
    port = 8080

    def command(self):
        script = self.directory / "server"
        script.write_text(self.source)
        return [self.interpreter, str(script), str(self.port)]


class MovingNode(MovingScript):
    name = interpreter = "node"
    source = NODE_SOURCE


class MovingPython(MovingScript):
    name = "python"
    interpreter = PYTHON
    source = PYTHON_SOURCE


def fill_redis(host, keys):
    """With values of 1 kB, as compressible as base64 is."""
    script = f"""
import base64, os, socket
with socket.create_connection(("{MOVING}", {MovingRedis.port}), 30) as redis:
    for at in range(0, {keys}, 1000):
        count = min(1000, {keys} - at)
        redis.sendall(b"".join(
            b"SET key%d %s\\r\\n" % (number, base64.b64encode(os.urandom(750)))
            for number in range(at, at + count)))
        answer = b""
        while answer.count(b"\\n") < count:
            answer += redis.recv(65536)
        assert answer == b"+OK\\r\\n" * count, answer[:100]
"""
    host.run(sys.executable, "-c", script)


# -- the client --


class Client:
    """scripts/counting_client.py on a host, from start() to end()."""

    def __init__(self, host, kind, port, directory):
        self.host = host
        self.kind = kind
        self.port = port
        self.path = pathlib.Path(directory) / "answers"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            self.host.enter(sys.executable, SCRIPTS / "counting_client.py", self.kind, MOVING,
                            self.port, self.path),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def check(self):
        """That it still counts."""
        assert self.process.poll() is None, f"the client ended: {self.process.stdout.read().strip()}"

    def answers(self):
        """(sent, there) in ns of each."""
        times = array.array("Q")
        data = self.path.read_bytes() if self.path.exists() else b""
        times.frombytes(data[:len(data) // 16 * 16])
        return times[::2], times[1::2]

    def await_answer(self, since_ns, timeout=20.0):
        """Until one that was asked for after that is on record."""
        def is_there():
            self.check()
            if not self.path.exists() or self.path.stat().st_size < 16:
                return False
            with open(self.path, "rb") as file:
                file.seek(self.path.stat().st_size // 16 * 16 - 16)
                return int.from_bytes(file.read(8), sys.byteorder) > since_ns
        wait_for(is_there, "the client's next answer", timeout)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        """Returns once it counts again."""
        self.process.send_signal(signal.SIGCONT)
        self.await_answer(time.monotonic_ns())

    def end(self):
        """How many answers it had; all were right."""
        self.check()
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=30)[0].strip()
        assert self.process.returncode == 0, f"the client: {said}"
        return self.path.stat().st_size // 16

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def longest_gap(answers, since_ns, until_ns):
    """(start in ns, length in ms) of the longest time between two answers."""
    there = answers[1]
    start, length, last = since_ns, 0, None
    for now in there:
        if last is not None and now >= since_ns and now - last > length:
            start, length = last, now - last
        if now > until_ns:
            break
        last = now
    return start, length / 1e6


def watched_move(mover, client, calm_s=0.5):
    """A move while the client counts, and what it saw of that."""
    time.sleep(calm_s)
    began = time.monotonic_ns()
    client.check()
    move = mover.move()
    client.await_answer(move.ended_ns)
    move.gap_ns, move.gap = longest_gap(client.answers(), began, time.monotonic_ns())
    return move
