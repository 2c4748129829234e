"""freezepoint points: what it counts, and whether the points that it advises serve."""

import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

from harness import (APP_SOURCES, APPS, PYTHON, free_port, http_get, is_listening, redis_command,
                     state_of, wait_for)

NODE_SERVER = """
require('http').createServer((request, answer) => answer.end('alive'))
    .listen(Number(process.argv[2]), '127.0.0.1');
"""

JAVA_SERVER = """
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;

public class Server {
    public static void main(String[] args) throws Exception {
        HttpServer server = HttpServer.create(
            new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 0);
        server.createContext("/", exchange -> {
            exchange.sendResponseHeaders(200, 5);
            exchange.getResponseBody().write("alive".getBytes());
            exchange.close();
        });
        server.start();
    }
}
"""

# The first client waits for what is made for all of them.
LAZY_SERVER = """
import socket, sys
inside, table = socket.create_server(("127.0.0.1", int(sys.argv[1]))), 0
while True:
    client, _ = inside.accept()
    client.recv(1000)
    table = table or sum(range(5000000))
    client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nalive" if table == 12499997500000 else b"")
    client.close()
"""


def learn(freezepoint, *words, **keywords):
    done = freezepoint.call(freezepoint.command("points", "--json", *words), **keywords)
    assert done.returncode == 0, done.stderr
    learnt = json.loads(done.stdout)
    assert learnt["lost_hits"] == learnt["uncounted_calls"] == 0, learnt
    return learnt


def function(learnt, name):
    return next(entry for entry in learnt["functions"] if entry["function"] == name)


def abandoned_groups():
    """Of runs that have ended: others on this machine may be at it, too."""
    return {path for path in pathlib.Path("/sys/fs/cgroup").glob("**/freezepoint/points.*")
            if not state_of(path.suffix[1:])}


FORMER_GROUPS = abandoned_groups()


def no_group_is_left():
    return abandoned_groups() <= FORMER_GROUPS


# -- the advice --

def advised(freezepoint, command, least_share=0.8):
    """The best point, after it has been found to be fit."""
    best = learn(freezepoint, "--", *command)["advice"][0]
    assert best["fit"] and best["connections"] == 0 and not best["half_started_child"], best
    assert best["cpu_share"] > least_share and not best["after_use"], best
    assert best["command"].startswith(f"freezepoint run --at {best['point']} -- "), best
    return best["point"]


def serve_from(freezepoint, point, command, ask):
    done = freezepoint.run("--at", point, "--then", "stop", "--", *command)
    assert done.returncode == 0 and freezepoint.generations() == [1], done.stderr
    restored = freezepoint.start_restore(freezepoint.name)
    wait_for(ask, "an answer of the restored program")
    restored.terminate()


def test_advice_for_python(freezepoint):
    port = free_port()
    command = [PYTHON, "-m", "http.server", port, "--bind", "127.0.0.1"]
    point = advised(freezepoint, command)
    assert point in ("poll#1", "listen#1"), point
    serve_from(freezepoint, point, command, lambda: http_get(port))


def test_advice_for_node(freezepoint, directory):
    port = free_port()
    (directory / "server.js").write_text(NODE_SERVER)
    command = ["node", directory / "server.js", port]
    point = advised(freezepoint, command)
    serve_from(freezepoint, point, command, lambda: http_get(port) == (200, "alive"))


def test_advice_for_redis(freezepoint, directory):
    port = free_port()
    command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", directory,
               "--save", ""]
    point = advised(freezepoint, command)
    assert point.startswith("epoll_wait#"), point
    serve_from(freezepoint, point, command, lambda: redis_command(port, "PING") == "PONG")


def test_advice_for_java(freezepoint, directory):
    port = free_port()
    (directory / "Server.java").write_text(JAVA_SERVER)
    subprocess.run(["javac", directory / "Server.java"], check=True, timeout=60)
    command = ["java", "-XX:-UsePerfData", "-cp", directory, "Server", port]
    point = advised(freezepoint, command)
    serve_from(freezepoint, point, command, lambda: http_get(port) == (200, "alive"))


def test_advice_for_nginx(freezepoint, directory):
    """Its workers are forked and execute nothing: they are complete, but it is quicker to
    fork them than to restore them."""
    port = free_port()
    text = (APP_SOURCES / "nginx.conf").read_text()
    (directory / "nginx.conf").write_text(
        text.replace("DIRECTORY", str(directory)).replace("PORT", str(port)))
    command = ["nginx", "-c", directory / "nginx.conf", "-e", directory / "errors"]
    point = advised(freezepoint, command, 0.2)
    serve_from(freezepoint, point, command, lambda: http_get(port) == (200, "alive"))


@pytest.mark.parametrize("program", ["flask", "django", "gunicorn", "gunicorn --preload"])
def test_advice_for_web_applications(freezepoint, program):
    port = free_port()
    command = {
        "flask": [PYTHON, APP_SOURCES / "flask_app.py", port],
        "django": [PYTHON, APP_SOURCES / "django_app.py", "runserver", "--noreload", port],
    }.get(program, [*program.split(), "--workers", 2, "--bind", f"127.0.0.1:{port}",
                    "--pythonpath", APP_SOURCES, "flask_app:app"])
    freezepoint.env["PYTHONDONTWRITEBYTECODE"] = "1"
    point = advised(freezepoint, command, 0.4)
    serve_from(freezepoint, point, command, lambda: http_get(port) == (200, "alive"))


def test_advice_after_the_first_use(freezepoint):
    port = free_port()
    command = [PYTHON, "-c", LAZY_SERVER, port]
    watching = freezepoint.start(freezepoint.command("points", "--json", "--for", "4s", "--",
                                                     *command))
    wait_for(lambda: is_listening(port), "the server to listen")
    time.sleep(1)
    assert http_get(port) == (200, "alive")
    assert watching.wait() == 0, watching.err
    best, *others = json.loads(watching.out)["advice"]
    assert best["point"] == "accept#2" and best["fit"] and best["after_use"], best
    assert not any(other["after_use"] and other["fit"] for other in others), others

    running = freezepoint.start_run("--at", best["point"], "--then", "stop", "--", *command)
    wait_for(lambda: is_listening(port), "the server to listen")
    assert http_get(port) == (200, "alive")
    assert running.wait() == 0 and freezepoint.generations() == [1], running.err
    restored = freezepoint.start_restore(freezepoint.name)
    wait_for(lambda: http_get(port) == (200, "alive"), "an answer of the restored program")
    restored.terminate()


SLEEPER = """
import os, select, time
sum(range(2000000))
time.sleep(0.8)
sum(range(5000000))
select.select([os.pipe()[0]], [], [])
"""


def test_a_sleep_is_not_the_end_of_the_start_up(freezepoint):
    assert advised(freezepoint, [PYTHON, "-c", SLEEPER]) == "select#1"


CONNECTED = """
import select, socket, sys, time
inside = socket.create_server(("127.0.0.1", 0))
outside = socket.create_connection(inside.getsockname())
accepted, _ = inside.accept()
sum(i * i for i in range(1000000))
{close}
while True:
    select.select([inside], [], [], 1)
"""


@pytest.mark.parametrize("close", ["", "outside.close(); accepted.close()"])
def test_open_connections_are_seen(freezepoint, close):
    learnt = learn(freezepoint, "--", PYTHON, "-c", CONNECTED.format(close=close))
    [select] = [advice for advice in learnt["advice"] if advice["function"] == "select"]
    assert select["connections"] == (0 if close else 2), select
    assert select["fit"] == bool(close)


# -- the counts --

@pytest.mark.parametrize("scope", ["cgroup", "namespace", "pid"])
def test_counts_at_100000_calls_a_second(freezepoint, scope):
    learnt = learn(freezepoint, "--scope", scope, "--", APPS / "calls", 2, 100000, 100000)
    read = function(learnt, "read")
    assert (read["calls"], read["threads"]) == (200000, 2)
    assert function(learnt, "pause")["calls"] == 1
    assert read["first_cpu_ns"] < read["last_cpu_ns"] <= learnt["cpu_ns"]
    # The first ones singly, in their order.
    hits = [hit for hit in learnt["hits"] if hit["function"] == "read" and hit["number"] <= 64]
    assert sorted(hit["number"] for hit in hits) == list(range(1, 65))
    assert all(hit["stack"][0].startswith(f"{APPS / 'calls'}+0x") for hit in hits), hits[0]
    assert no_group_is_left()


def test_children_are_seen(freezepoint):
    """A shell's child: another process, whose functions are counted from 1."""
    program = "import select; select.select([], [], [], 0.01); select.select([], [], [], 5)"
    learnt = learn(freezepoint, "--", "/bin/sh", "-c", f"{PYTHON} -c '{program}'; exit 3")
    assert [hit["number"] for hit in learnt["hits"] if hit["function"] == "select"] == [1, 2]
    assert {process["comm"] for process in learnt["processes"]} == {"sh", "python3"}
    child = next(process for process in learnt["processes"] if process["comm"] == "python3")
    assert 0 < child["forked_ns"] < child["executed_ns"]


def test_a_program_that_ends(freezepoint):
    learnt = learn(freezepoint, "--", PYTHON, "-c", "print('done')")
    assert learnt["advice"] == [] and learnt["start_up_ns"] is None
    assert learnt["processes"][0]["ended_ns"] > 0


def test_processor_time(freezepoint):
    program = "import time; end = time.process_time() + .5\nwhile time.process_time() < end: pass"
    learnt = learn(freezepoint, "--", PYTHON, "-c", program)
    assert 0.45e9 < learnt["cpu_ns"] < 0.8e9


# -- what runs already --

@pytest.fixture
def server():
    port = free_port()
    process = subprocess.Popen([PYTHON, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: http_get(port), "the server to listen")
    yield process, port
    process.kill()
    process.wait()


def test_a_process_that_runs(freezepoint, server):
    process, port = server
    learnt = learn(freezepoint, "--for", "1500ms", "--pid", process.pid)
    assert function(learnt, "poll")["calls"] in (2, 3, 4)
    assert [entry["pid"] for entry in learnt["processes"]] == [process.pid]
    assert process.poll() is None and http_get(port)
    assert "[uprobes]" in pathlib.Path(f"/proc/{process.pid}/maps").read_text()


def test_a_group_that_runs(freezepoint):
    running = freezepoint.start_run("--at", "rand_r#1000000", "--", APPS / "steady", 1, 2)
    wait_for(freezepoint.pids, "the program to run")
    learnt = learn(freezepoint, "--for", "1s", "--cgroup", freezepoint.group())
    assert {entry["pid"] for entry in learnt["processes"]} <= set(freezepoint.pids())
    assert running.running() and freezepoint.pids()
    running.terminate()


# -- the command --

def test_output_and_table(freezepoint):
    done = freezepoint.call(freezepoint.command("points", "--", PYTHON, "-c", "print('hello')"))
    assert done.returncode == 0 and done.stdout == "hello\n"
    assert "FUNCTION" in done.stderr and "no advice" in done.stderr


def test_interrupted_it_tells_what_it_knows(freezepoint):
    running = freezepoint.start(freezepoint.command("points", "--for", "1m", "--", "sleep", 100))
    time.sleep(1)
    assert running.terminate() == 0
    assert "clock_nanosleep" in running.err and no_group_is_left()


@pytest.mark.parametrize("command", [["sleep", "100"], ["sh", "-c", "sleep 100 & wait"]])
def test_killed_it_takes_the_program_along(freezepoint, command):
    """With all that it has started, and the group."""
    running = freezepoint.start(freezepoint.command("points", "--for", "1m", "--", *command))
    group = freezepoint.cgroups / f"points.{running.pid}"
    processes = 1 if command[0] == "sleep" else 2
    wait_for(lambda: group.is_dir() and
             len((group / "cgroup.procs").read_text().split()) == processes, "the program to run")
    pids = (group / "cgroup.procs").read_text().split()
    time.sleep(0.5)
    running.signal(signal.SIGKILL)
    running.wait()
    wait_for(lambda: not group.exists(), "the group to be removed")
    assert all(state_of(pid) in ("", "Z") for pid in pids)


@pytest.mark.parametrize("words, status, message", [
    ([], 2, "one of COMMAND, --pid and --cgroup"),
    (["--pid", os.getpid(), "--", "true"], 2, "one of COMMAND, --pid and --cgroup"),
    (["--pid", "x"], 2, "a process number"),
    (["--for", "soon", "--", "true"], 2, "--for 'soon'"),
    (["--scope", "all", "--", "true"], 2, "one of"),
    (["--pid", 2**30], 1, "process"),
    (["--scope", "namespace", "--pid", os.getpid()], 2, "host's pid namespace"),
    (["--cgroup", "/tmp"], 2, "not a cgroup v2 group"),
    (["--", "/no/such/program"], 127, "/no/such/program"),
    (["--", "/etc/passwd"], 126, "/etc/passwd"),
])
def test_refusals(freezepoint, words, status, message):
    done = freezepoint.call(freezepoint.command("points", *words))
    assert done.returncode == status and message in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and no_group_is_left()


def test_without_bpf(freezepoint):
    words = ["unshare", "--mount", "sh", "-c",
             'mount -t tmpfs none /sys/kernel/btf && exec "$@"', "sh"]
    done = freezepoint.call([*words, *freezepoint.command("points", "--", "sleep", 100)])
    assert done.returncode == 77 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "BPF" in done.stderr and no_group_is_left()
