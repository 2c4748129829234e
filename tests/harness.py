"""Driving the real build/freezepoint: start it, wait for what it does, and see
that nothing is left behind.

A test gets a Freezepoint (fixture `freezepoint`, tests/conftest.py) with a store
and a job name of its own.  Everything waits with a limit.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build" / "freezepoint"
APPS = ROOT / "build" / "tests" / "apps"
APP_SOURCES = ROOT / "tests" / "apps"
PYTHON = "/usr/bin/python3"
RUNTIME = pathlib.Path("/run/freezepoint")


def cgroup_mount():
    """Where cgroup v2 is mounted."""
    found = None
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            root, path = fields.split()[3:5]
            if root == "/" or found is None:
                found = path
    assert found, "no cgroup v2 hierarchy is mounted"
    return pathlib.Path(found)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_listening(port):
    """Looks without connecting."""
    lines = [line for name in ("tcp", "tcp6")
             for line in pathlib.Path("/proc/net", name).read_text().splitlines()[1:]]
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
               for line in lines)


def wait_for(condition, what, timeout=20.0, interval=0.02):
    """Waits until condition() is true and returns what it returned."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(interval)


def http_get(port, path="/", timeout=5.0):
    """(status, body), or None while nobody listens."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (ConnectionError, http.client.HTTPException, OSError):
        return None


def redis_command(port, *words, timeout=5.0):
    """One command by redis-cli; its output, or None while it cannot connect."""
    done = subprocess.run(
        ["redis-cli", "-p", str(port), *words], capture_output=True, text=True, timeout=timeout
    )
    refused = done.returncode != 0 or "Could not connect" in done.stdout + done.stderr
    return None if refused else done.stdout.strip()


class Running:
    """A freezepoint in the background, with its streams in files."""

    def __init__(self, command, directory, label, env, stdin):
        self.out_path = directory / f"{label}.out"
        self.err_path = directory / f"{label}.err"
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen(
                command, stdin=stdin, stdout=out, stderr=err, env=env, cwd=directory
            )

    @property
    def pid(self):
        return self.process.pid

    @property
    def out(self):
        return self.out_path.read_text(errors="replace")

    @property
    def err(self):
        return self.err_path.read_text(errors="replace")

    def running(self):
        return self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=30.0):
        """Its exit status."""
        return self.process.wait(timeout)

    def terminate(self, timeout=20.0):
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait_for_output(self, pattern, timeout=20.0):
        return wait_for(lambda: re.search(pattern, self.out), f"'{pattern}' on stdout", timeout)

    def wait_for_message(self, pattern, timeout=20.0):
        return wait_for(
            lambda: re.search(pattern, self.err) or self._ended_without(pattern),
            f"'{pattern}' on stderr",
            timeout,
        )

    def _ended_without(self, pattern):
        if not self.running() and not re.search(pattern, self.err):
            raise AssertionError(f"ended without '{pattern}' on stderr; it said:\n{self.err}")
        return None


class Freezepoint:
    def __init__(self, directory, name):
        self.directory = pathlib.Path(directory)
        self.name = name
        self.store = self.directory / "store"
        self.env = dict(os.environ)
        self.started = []
        self.cgroups = cgroup_mount() / "freezepoint"

    # -- running it --

    def command(self, *words):
        return [str(PROGRAM), *map(str, words)]

    def run_words(self, *words):
        return self.command("run", "--name", self.name, "--images", self.store, *words)

    def restore_words(self, *words):
        return self.command("restore", "--images", self.store, *words)

    def call(self, command, timeout=60.0, **keywords):
        """Runs a freezepoint command to its end."""
        keywords.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout,
            env=self.env, cwd=self.directory, **keywords
        )

    def start(self, command, stdin=subprocess.DEVNULL):
        label = f"{len(self.started)}-{pathlib.Path(command[1]).name}"
        running = Running(command, self.directory, label, self.env, stdin)
        self.started.append(running)
        return running

    def run(self, *words, **keywords):
        return self.call(self.run_words(*words), **keywords)

    def restore(self, *words, **keywords):
        return self.call(self.restore_words(*words), **keywords)

    def start_run(self, *words, **keywords):
        return self.start(self.run_words(*words), **keywords)

    def start_restore(self, *words, **keywords):
        return self.start(self.restore_words(*words), **keywords)

    # -- what it made --

    def json(self, *words):
        done = self.call(self.command(*words, "--images", self.store, "--json"))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def images(self):
        return self.json("images")

    def generations(self):
        return [image["generation"] for image in self.images() if image["name"] == self.name]

    def inspect(self, spec=None):
        return self.json("inspect", spec or self.name)

    def image_path(self, generation=1):
        return self.store / self.name / str(generation)

    # -- its processes --

    def group(self, job=None):
        return self.cgroups / (job or self.name)

    def pids(self, job=None):
        try:
            return [int(pid) for pid in (self.group(job) / "cgroup.procs").read_text().split()]
        except (FileNotFoundError, OSError):
            return []

    def is_frozen(self, job=None):
        events = (self.group(job) / "cgroup.events").read_text()
        return "frozen 1" in events

    def keepers(self, supervisor):
        """Pids of the keeper of a supervisor."""
        return [pid for pid in children_of(supervisor) if comm_of(pid).startswith("freezepoint-kee")]

    # -- the end --

    def clean_up(self):
        """Ends what a failed test left; only what this test started."""
        for running in self.started:
            if running.running():
                running.process.kill()
                running.process.wait()
        for group in self._own(self.cgroups):
            with contextlib.suppress(OSError):  # it ends by itself meanwhile
                for freeze in group.glob("**/cgroup.freeze"):
                    freeze.write_text("0")
                (group / "cgroup.kill").write_text("1")
        if self._own(self.cgroups) or self._own(RUNTIME):
            time.sleep(1.0)

    def remove_traces(self):
        """What freezepoint keeps until reboot of a job that has ended: its logs, and the
        preload library, which names the job's socket."""
        for directory in self._own(RUNTIME / ".log"):
            shutil.rmtree(directory, ignore_errors=True)
        socket_path = re.compile(rf"{RUNTIME}/{re.escape(self.name)}(\.\d+)?/".encode())
        for library in (RUNTIME / ".preload").glob("*.so"):
            with contextlib.suppress(FileNotFoundError):
                if socket_path.search(library.read_bytes()):
                    library.unlink()

    def _own(self, parent):
        """This test's entries in `parent`, which whoever leaves it last removes."""
        pattern = re.compile(re.escape(self.name) + r"(\.\d+)?$")
        try:
            return [entry for entry in parent.iterdir() if pattern.match(entry.name)]
        except FileNotFoundError:
            return []

    def leftovers(self):
        """What is still there of this test's jobs, as text lines."""
        found = [str(entry) for entry in self._own(self.cgroups) + self._own(RUNTIME)]
        if self.store.is_dir():
            found += [str(entry) for entry in self.store.glob("*/.draft-*")]
        found += [f"process {run.pid} still runs" for run in self.started if run.running()]
        found += [f"process {pid} ({comm_of(pid)}) has {self.directory} open or as its directory"
                  for pid in processes_in(self.directory)]
        return found

    def assert_clean(self, timeout=10.0):
        deadline = time.monotonic() + timeout
        while self.leftovers() and time.monotonic() < deadline:
            time.sleep(0.05)
        left = self.leftovers()
        assert not left, "left behind: " + "; ".join(left)
        self.remove_traces()


def comm_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def state_of(pid):
    """The letter of /proc/PID/stat: R, S, D, T (stopped), t (traced), Z; '' if gone."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        return stat[stat.rindex(")") + 2]
    except OSError:
        return ""


def tracer_of(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"TracerPid:\s+(\d+)", status).group(1))


def children_of(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def processes_in(directory):
    """Processes whose working directory is in `directory`; ours excepted."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            cwd = os.readlink(entry / "cwd")
        except OSError:
            continue
        if cwd == str(directory) or cwd.startswith(f"{directory}/"):
            found.append(int(entry.name))
    return found


def links_of(pid):
    """The BPF links that a process holds, which are what is attached."""
    found = set()
    for entry in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.update(re.findall(r"^link_id:\s+(\d+)$", entry.read_text(), re.M))
    return {int(link) for link in found}


def all_links():
    shown = subprocess.run(["bpftool", "-j", "link", "show"], capture_output=True, text=True,
                           check=True).stdout
    return {link["id"] for link in json.loads(shown or "[]")}
