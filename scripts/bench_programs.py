"""The programs that scripts/bench measures, and what all such programs have in common:
how each is started, at which call its image is taken, and how a client asks it for something."""

import pathlib
import re
import shutil
import socket
import subprocess
import time

from harness import APPS, PYTHON, ROOT, free_port, wait_for

NODE_SOURCE = """
const http = require('http');
http.createServer((request, answer) => answer.end('alive'))
    .listen(Number(process.argv[2]), '127.0.0.1');
"""

JAVA_SOURCE = """
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;

public class Server {
    public static void main(String[] args) throws Exception {
        HttpServer server = HttpServer.create(
            new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 64);
        server.createContext("/", exchange -> {
            byte[] body = "alive".getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }
}
"""


def find_criu():
    """The CRIU that freezepoint uses too."""
    setup = (ROOT / "build" / "setup.mk").read_text()
    return str(ROOT / re.search(r"^CRIU := (.+)$", setup, re.MULTILINE).group(1))


class Program:
    """One program on a port of its own, with its files in a directory of its own."""

    needs = ()
    point = "listen"  # where its image is taken
    request = b"GET / HTTP/1.0\r\n\r\n"

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        self.port = free_port()
        self.prepare()

    @classmethod
    def missing(cls):
        return [need for need in cls.needs if not shutil.which(need)]

    def prepare(self):
        pass

    def ask(self, timeout=10.0):
        """Whether it answered; False while nobody listens."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
                connection.sendall(self.request)
                return self.is_answered(connection)
        except ConnectionError:
            return False

    def is_answered(self, connection):
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
        return answer.startswith(b"HTTP/1.") and b" 200 " in answer

    def longest_gap(self, _output, _since_ns):
        """(start, length) in ns of the longest stop since then, where the program
        itself has an eye on that."""
        return None


class Heartbeat(Program):
    """tests/apps/heartbeat.c, two threads."""

    name = "c"

    def command(self):
        return [str(APPS / "heartbeat"), str(self.port)]

    def longest_gap(self, output, since_ns):
        found = re.findall(r"^gap (\d+) (\d+)$", output, re.MULTILINE)
        gaps = [(int(start), int(length)) for start, length in found if int(start) >= since_ns]
        return max(gaps, key=lambda gap: gap[1], default=(since_ns, 0))


class PythonServer(Program):
    name = "python"

    def command(self):
        return [PYTHON, "-m", "http.server", str(self.port), "--bind", "127.0.0.1"]


class Redis(Program):
    name = "redis"
    needs = ("redis-server",)
    point = "epoll_wait"
    request = b"GET key1\r\n"
    keys, value_size = 20000, 100

    def command(self):
        return ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
                "--dir", str(self.directory), "--save", ""]

    def is_answered(self, connection):
        return connection.recv(4096).startswith(b"$%d\r\n" % self.value_size)

    def prepare(self):
        """Makes the data that it loads at its start."""
        loader = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, cwd=self.directory)
        fill = (f"EVAL \"for i = 1, {self.keys} do redis.call('set', 'key' .. i, "
                f"string.rep('x', {self.value_size})) end\" 0\r\n").encode()
        try:
            wait_for(lambda: self.tell(b"PING\r\n"), "redis to listen")
            assert self.tell(fill) and self.tell(b"SAVE\r\n"), "redis was not filled"
        finally:
            loader.kill()
            loader.wait()

    def tell(self, command):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 30) as connection:
                connection.sendall(command)
                return connection.recv(4096)
        except ConnectionError:
            return None


class Node(Program):
    name = "node"
    needs = ("node",)

    def prepare(self):
        (self.directory / "server.js").write_text(NODE_SOURCE)

    def command(self):
        return ["node", str(self.directory / "server.js"), str(self.port)]


class Java(Program):
    name = "java"
    needs = ("java", "javac")

    def prepare(self):
        source = self.directory / "Server.java"
        source.write_text(JAVA_SOURCE)
        subprocess.run(["javac", str(source)], check=True, timeout=60)

    def command(self):
        return ["java", "-XX:-UsePerfData", "-cp", str(self.directory), "Server", str(self.port)]


PROGRAMS = (Heartbeat, PythonServer, Redis, Node, Java)


def await_silence(program, timeout=20.0):
    """Until its port is free again."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(("127.0.0.1", program.port), 1).close()
        except OSError:
            return
        assert time.monotonic() < deadline, f"port {program.port} is still in use"
        time.sleep(0.002)
