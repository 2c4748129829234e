"""The programs that scripts/bench measures, and what all such programs have in common:
how each is started, at which call its image is taken, and how a client asks it for something."""

import pathlib
import re
import shutil
import socket
import subprocess
import time

from harness import APP_SOURCES, APPS, PYTHON, ROOT, free_port, wait_for

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

TOMCAT_HOMES = [pathlib.Path(f"/usr/share/tomcat{version}") for version in (10, 11)]

SERVER_XML = """\
<Server port="-1">
  <Service name="Catalina">
    <Connector port="{port}" address="127.0.0.1"/>
    <Engine name="Catalina" defaultHost="localhost">
      <Host name="localhost" appBase="webapps">
        <Context path="" docBase="{pages}"/>
      </Host>
    </Engine>
  </Service>
</Server>
"""

# What a Tomcat as installed has for every application.
WEB_XML = """\
<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="6.0">
  <servlet>
    <servlet-name>default</servlet-name>
    <servlet-class>org.apache.catalina.servlets.DefaultServlet</servlet-class>
    <load-on-startup>1</load-on-startup>
  </servlet>
  <servlet>
    <servlet-name>jsp</servlet-name>
    <servlet-class>org.apache.jasper.servlet.JspServlet</servlet-class>
    <load-on-startup>3</load-on-startup>
  </servlet>
  <servlet-mapping>
    <servlet-name>default</servlet-name>
    <url-pattern>/</url-pattern>
  </servlet-mapping>
  <servlet-mapping>
    <servlet-name>jsp</servlet-name>
    <url-pattern>*.jsp</url-pattern>
  </servlet-mapping>
  <welcome-file-list>
    <welcome-file>index.html</welcome-file>
  </welcome-file-list>
</web-app>
"""

LOGGING_PROPERTIES = """\
handlers = java.util.logging.ConsoleHandler
java.util.logging.SimpleFormatter.format = %1$tT %4$s: %5$s%n
"""


def has_module(name):
    return subprocess.run([PYTHON, "-c", f"import {name}"], capture_output=True,
                          check=False).returncode == 0


def find_criu():
    """The CRIU that freezepoint uses too."""
    setup = (ROOT / "build" / "setup.mk").read_text()
    return str(ROOT / re.search(r"^CRIU := (.+)$", setup, re.MULTILINE).group(1))


class Program:
    """One program on a port of its own, with its files in a directory of its own."""

    needs = ()
    point = "listen"  # where its image is taken
    request = b"GET / HTTP/1.0\r\n\r\n"
    expected = b""  # the end of the answer
    environment = {}

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
        return (answer.startswith(b"HTTP/1.") and b" 200 " in answer
                and answer.endswith(self.expected))

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


class LargeRedis(Redis):
    """It loads for some time."""

    keys, value_size = 2_000_000, 32


class Java(Program):
    name = "java"
    needs = ("java", "javac")

    def prepare(self):
        source = self.directory / "Server.java"
        source.write_text(JAVA_SOURCE)
        subprocess.run(["javac", str(source)], check=True, timeout=60)

    def command(self):
        return ["java", "-XX:-UsePerfData", "-cp", str(self.directory), "Server", str(self.port)]


class Tomcat(Program):
    name = "tomcat"
    needs = ("java",)

    @classmethod
    def home(cls):
        return next((home for home in TOMCAT_HOMES if (home / "bin" / "catalina.sh").exists()
                     and cls.pages(home).exists()), None)

    @staticmethod
    def pages(home):
        return pathlib.Path(f"{home}-examples") / "examples"

    @classmethod
    def missing(cls):
        return super().missing() + ([] if cls.home() else ["Tomcat and its examples"])

    def prepare(self):
        home = self.home()
        for name in ("conf", "logs", "temp", "webapps", "work"):
            (self.directory / name).mkdir()
        conf = self.directory / "conf"
        (conf / "server.xml").write_text(SERVER_XML.format(port=self.port, pages=self.pages(home)))
        (conf / "web.xml").write_text(WEB_XML)
        (conf / "logging.properties").write_text(LOGGING_PROPERTIES)
        self.script = home / "bin" / "catalina.sh"
        self.environment = {"CATALINA_BASE": str(self.directory), "JAVA_OPTS": "-Xmx64m"}

    def command(self):
        return [str(self.script), "run"]


class Flask(Program):
    name = "flask"
    modules = ("flask",)  # of the distribution's python3
    expected = b"alive"
    environment = {"PYTHONDONTWRITEBYTECODE": "1"}  # beside its source

    @classmethod
    def missing(cls):
        return super().missing() + [name for name in cls.modules if not has_module(name)]

    def command(self):
        return [PYTHON, str(APP_SOURCES / "flask_app.py"), str(self.port)]


class Django(Flask):
    name = "django"
    modules = ("django",)

    def command(self):
        return [PYTHON, str(APP_SOURCES / "django_app.py"), "runserver", "--noreload",
                str(self.port)]


class Gunicorn(Flask):
    name = "gunicorn"
    needs = ("gunicorn",)
    options = ()

    def command(self):
        return ["gunicorn", *self.options, "--workers", "2", "--bind", f"127.0.0.1:{self.port}",
                "--pythonpath", str(APP_SOURCES), "flask_app:app"]


class GunicornPreload(Gunicorn):
    name = "gunicorn-preload"
    options = ("--preload",)


class Nginx(Program):
    name = "nginx"
    needs = ("nginx",)
    expected = b"alive"

    def prepare(self):
        text = (APP_SOURCES / "nginx.conf").read_text()
        text = text.replace("DIRECTORY", str(self.directory)).replace("PORT", str(self.port))
        (self.directory / "nginx.conf").write_text(text)

    def command(self):
        return ["nginx", "-c", str(self.directory / "nginx.conf"),
                "-e", str(self.directory / "errors")]


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
