"""Real programs, unmodified: checkpointed at a named call, ended, restored, and
found to be in the state in which they were."""

import shutil
import subprocess
import time

import pytest

from harness import APPS, PYTHON, free_port, http_get, redis_command, wait_for

NODE_SERVER = """
const http = require('http');
let count = 0;
http.createServer((request, answer) => answer.end(String(++count)))
    .listen(Number(process.argv[2]), '127.0.0.1', () => console.log('ready'));
"""

JAVA_SERVER = """
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.atomic.AtomicInteger;

public class Server {
    public static void main(String[] args) throws Exception {
        AtomicInteger count = new AtomicInteger();
        HttpServer server = HttpServer.create(
            new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 0);
        server.createContext("/", exchange -> {
            byte[] body = String.valueOf(count.incrementAndGet()).getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
        System.out.println("ready");
    }
}
"""

COUNTER = """
import sqlite3, sys
connection = sqlite3.connect(":memory:")
connection.execute("create table numbers (n integer)")
for n in range(10):
    connection.execute("insert into numbers values (?)", (n,))
    print("inserted", n, flush=True)
print("sum", connection.execute("select sum(n) from numbers").fetchone()[0])
"""

END_WITH_THREADS = """
import ctypes, os, threading
threading.stack_size(65536)
for _ in range(300):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
ctypes.CDLL(None).srand(1)
os.write(1, b"the end\\n")
os._exit(3)
"""

SYSTEM_V_SHARED = """
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(0, 4096, 0o600)
text = (ctypes.c_char * 4096).from_address(libc.shmat(segment, None, 0))
libc.shmctl(segment, 0, None)
text.value = b"kept"
libc.srand(1)
print(text.value.decode())
text.value = b"changed"
"""


def checkpointed(running, timeout=40):
    running.wait_for_message(r"checkpoint \S+@\d+ at .*frozen", timeout)


def test_python_http_server_at_listen(freezepoint, directory):
    port = free_port()
    (directory / "page.html").write_text("hello from the directory")
    server = freezepoint.start_run(
        "--at", "listen", "--", PYTHON, "-m", "http.server", port, "--bind", "127.0.0.1"
    )
    checkpointed(server)
    assert wait_for(lambda: http_get(port, "/page.html"), "the server") == (
        200, "hello from the directory")
    assert server.terminate() == 128 + 15
    assert http_get(port) is None

    restored = freezepoint.start_restore(freezepoint.name)
    assert wait_for(lambda: http_get(port, "/page.html"), "the restored server") == (
        200, "hello from the directory")
    assert "GET /page.html" in restored.err  # the program's own log, on its own stream
    assert restored.terminate() == 128 + 15


@pytest.mark.parametrize("point", ["listen", "epoll_wait#20"])
def test_node_http_server(freezepoint, directory, point):
    port = free_port()
    (directory / "server.js").write_text(NODE_SERVER)
    server = freezepoint.start_run(
        "--at", point, "--tcp", "close", "--", shutil.which("node"), "server.js", port)
    # Every request makes epoll_wait return, so that its 20th call comes.
    sent = 0
    while "checkpoint " not in server.err and sent < 200:
        answer = http_get(port)
        sent += answer is not None
        time.sleep(0.02)
    checkpointed(server)
    assert server.terminate() == 128 + 15

    restored = freezepoint.start_restore(freezepoint.name)
    status, body = wait_for(lambda: http_get(port), "the restored server")
    assert status == 200
    if point == "listen":
        assert body == "1"  # nobody had been served at that moment
    else:
        assert 1 < int(body) <= sent + 1  # it goes on counting
    assert restored.terminate() == 128 + 15


def test_redis_with_data_at_epoll_wait(freezepoint, directory):
    port = free_port()
    options = ["--port", port, "--bind", "127.0.0.1", "--dir", directory, "--save", ""]
    loader = subprocess.Popen(
        ["redis-server", *map(str, options)], stdout=subprocess.DEVNULL, cwd=directory)
    try:
        wait_for(lambda: redis_command(port, "ping"), "redis to load")
        fill = "for i = 1, 20000 do redis.call('set', 'key' .. i, string.rep('x', 100)) end"
        assert redis_command(port, "eval", fill, "0") == ""
        assert redis_command(port, "set", "greeting", "kept") == "OK"
        assert redis_command(port, "save") == "OK"
    finally:
        loader.terminate()
        loader.wait(20)

    server = freezepoint.start_run("--at", "epoll_wait", "--", "redis-server", *options)
    checkpointed(server)
    assert redis_command(port, "set", "greeting", "changed afterwards") == "OK"
    assert server.terminate() == 0
    (directory / "dump.rdb").unlink()

    restored = freezepoint.start_restore(freezepoint.name)
    assert wait_for(lambda: redis_command(port, "get", "greeting"), "restored redis") == "kept"
    assert redis_command(port, "dbsize") == "20001"
    assert restored.terminate() == 0


@pytest.mark.limit(180)
def test_java_http_server(freezepoint, directory):
    port = free_port()
    (directory / "Server.java").write_text(JAVA_SERVER)
    subprocess.run(["javac", "Server.java"], cwd=directory, check=True, timeout=90)
    server = freezepoint.start_run(
        "--at", "listen", "--", "java", "-Xmx64m", "-cp", directory, "Server", port)
    checkpointed(server)
    assert wait_for(lambda: http_get(port), "the server", 30) == (200, "1")
    assert http_get(port) == (200, "2")
    assert server.terminate() == 128 + 15

    restored = freezepoint.start_restore(freezepoint.name)
    assert wait_for(lambda: http_get(port), "the restored server", 30) == (200, "1")
    assert restored.terminate() == 128 + 15
    assert freezepoint.inspect()["threads"] > 5


def test_shell_script_with_children(freezepoint, directory):
    (directory / "script.sh").write_text(
        "(while :; do echo a >> a.log; sleep 0.05; done) &\n"
        "(while :; do echo b >> b.log; sleep 0.05; done) &\n"
        "while [ ! -e stop ]; do echo main >> main.log; sleep 0.05; done\n"
        "kill %1 %2; exit 3\n")
    script = freezepoint.start_run("--at", "fork#6", "--then", "stop", "--", "bash", "-m",
                                   "script.sh")
    assert script.wait() == 0
    assert freezepoint.inspect()["processes"] >= 3
    assert not freezepoint.pids()
    sizes = [(directory / log).stat().st_size for log in ("a.log", "b.log", "main.log")]

    restored = freezepoint.start_restore(freezepoint.name)
    for log, size in zip(("a.log", "b.log", "main.log"), sizes):
        wait_for(lambda: (directory / log).stat().st_size > size + 6, f"{log} to grow")
    (directory / "stop").touch()
    assert restored.wait() == 3


def test_threads(freezepoint):
    """A program whose threads each count; the sums must be right in both copies."""
    program = freezepoint.run("--at", "rand_r#50000", "--", APPS / "threads", 8, 20000)
    assert program.returncode == 0, program.stderr
    assert "calls 160000, each seen once" in program.stdout
    assert freezepoint.generations() == [1]
    restored = freezepoint.restore(freezepoint.name)
    assert restored.returncode == 0, restored.stderr
    assert "calls 160000, each seen once" in restored.stdout


def test_many_threads_that_end_at_once(freezepoint, directory):
    """The process ends while CRIU is still letting go of its threads."""
    (directory / "end.py").write_text(END_WITH_THREADS)
    program = freezepoint.run("--at", "srand", "--then", "stop", "--", PYTHON, "end.py")
    assert program.returncode == 0, program.stderr
    assert freezepoint.inspect()["threads"] == 301
    for _ in range(3):
        # If the restore were taken for failed, it would be started a second time.
        restored = freezepoint.run("--at", "srand", "--", PYTHON, "end.py")
        assert restored.returncode == 3, restored.stderr
        assert restored.stdout == "the end\n", restored.stderr
        assert "restored" in restored.stderr and "failed" not in restored.stderr
    assert freezepoint.generations() == [1]


def test_system_v_shared_memory(freezepoint, directory):
    """It can be dumped where it is the program's own."""
    (directory / "shared.py").write_text(SYSTEM_V_SHARED)
    words = ("--at", "srand", "--", "unshare", "--ipc", PYTHON, "shared.py")
    done = freezepoint.run(*words[:3], *words[5:])
    assert done.returncode == 0 and done.stdout == "kept\n"
    assert "start it with 'unshare --ipc'" in done.stderr
    assert freezepoint.generations() == []
    assert freezepoint.run(*words).returncode == 0
    assert freezepoint.generations() == [1]
    for _ in range(2):
        restored = freezepoint.restore(freezepoint.name)
        assert restored.returncode == 0 and restored.stdout == "kept\n", restored.stderr


def test_a_program_that_has_left_its_first_process_is_told_so(freezepoint):
    done = freezepoint.run("--at", "srand", "--", "sh", "-c", f"""
        {PYTHON} -c 'import ctypes, time; time.sleep(0.3); ctypes.CDLL(None).srand(1)' &""")
    assert done.returncode == 0
    assert "run it in the foreground" in done.stderr
    assert freezepoint.generations() == []


def test_function_of_a_dlopened_library(freezepoint, directory):
    """sqlite3_step is in a library that python loads when it needs it."""
    (directory / "count.py").write_text(COUNTER)
    program = freezepoint.run("--at", "sqlite3_step#12", "--", PYTHON, "count.py")
    assert program.returncode == 0, program.stderr
    assert program.stdout.endswith("inserted 9\nsum 45\n")
    image = freezepoint.inspect()
    assert image["hit"]["hit"] == 12 and image["hit"]["function"] == "sqlite3_step"
    restored = freezepoint.restore(freezepoint.name)
    assert restored.returncode == 0, restored.stderr
    assert restored.stdout.endswith("inserted 9\nsum 45\n")
    assert "inserted 0" not in restored.stdout


def test_library_restricts_a_point(freezepoint):
    done = freezepoint.run("--at", "libz:listen", "--", PYTHON, "-c",
                           "import socket; socket.socket().listen(); print('listened')")
    assert done.returncode == 0 and done.stdout == "listened\n"
    assert freezepoint.images() == []
    assert "no image" in done.stderr
    done = freezepoint.run("--at", "libc:listen", "--", PYTHON, "-c",
                           "import socket; socket.socket().listen(); print('listened')")
    assert done.returncode == 0 and freezepoint.generations() == [1]
