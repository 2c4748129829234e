"""`run` twice: the second time the program is restored, unless its image no longer
fits or cannot be restored; then why is said in one line and it is started."""

import os
import shutil
import socket
import subprocess

import pytest

from harness import APPS, PYTHON, free_port, http_get, wait_for

# What it has drawn before the point tells a restored program from a started one.
PROGRAM = """
import os, sys
mark = os.urandom(8).hex()
open("starts.log", "a").write("started\\n")
os.times()
text = sys.stdin.read()
print(mark, len(text), text[-6:].strip())
print("an error line", file=sys.stderr)
sys.exit(6)
"""

INPUT = "".join(f"line {number}\n" for number in range(40000))


@pytest.fixture
def service(freezepoint, directory):
    """run() of one program; starts() counts how often it began anew."""
    (directory / "program.py").write_text(PROGRAM)

    class Service:
        words = ("--at", "times", "--", PYTHON, "program.py")

        def run(self, *options, words=None, **keywords):
            keywords.setdefault("stdin", None)
            keywords.setdefault("input", INPUT)
            done = freezepoint.run(*options, *(words or self.words), **keywords)
            assert done.returncode == 6, done.stderr
            mark, length, last = done.stdout.split(" ", 2)
            assert int(length) == len(INPUT) and last == "39999\n"
            assert "an error line\n" in done.stderr
            return mark, said(done)

        def starts(self):
            return (directory / "starts.log").read_text().count("started")

    return Service()


def said(done):
    """What freezepoint itself said, as lines."""
    return [line.removeprefix("freezepoint: ") for line in done.stderr.splitlines()
            if line.startswith("freezepoint: ")]


def test_the_second_run_is_warm(freezepoint, service):
    name = freezepoint.name
    first, lines = service.run()
    assert len(lines) == 1 and lines[0].startswith(f"checkpoint {name}@1 at times#1 (frozen ")
    for _ in range(3):
        again, lines = service.run()
        assert again == first  # the same random bytes: its memory
        assert len(lines) == 1 and lines[0].startswith(f"restored {name}@1, taken at times#1 (")
    assert service.starts() == 1 and freezepoint.generations() == [1]


def test_modes(freezepoint, service):
    done = freezepoint.run("--restore", "require", *service.words)
    assert done.returncode == 125 and "no image" in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    first, _ = service.run("--restore", "never")
    second, lines = service.run("--restore", "never")
    assert second != first and lines[0].startswith("checkpoint ")
    assert freezepoint.generations() == [1, 2]
    third, lines = service.run("--restore", "require")
    assert third == second and lines[0].startswith("restored ")
    assert service.starts() == 2


def change_argument(service, directory):
    return (*service.words, "argument"), None


def change_script(service, directory):
    os.utime(directory / "program.py", (1, 1))
    return None, None


def change_point(service, directory):
    return ("--at", "times", "--at", "listen", *service.words[2:]), None


def change_directory(service, directory):
    (directory / "sub").mkdir()
    shutil.copy(directory / "program.py", directory / "sub" / "program.py")
    return None, directory / "sub"


@pytest.mark.parametrize("change, why", [
    (change_argument, "the command line differs"),
    (change_script, "program.py' has changed since"),
    (change_point, "--at differs"),
    (change_directory, "the working directory differs"),
])
def test_stale(freezepoint, directory, service, change, why):
    first, _ = service.run()
    words, cwd = change(service, directory)
    words = words or service.words
    done = subprocess.run(
        freezepoint.run_words("--restore", "require", *words), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, cwd=cwd or directory, env=freezepoint.env, timeout=30)
    assert done.returncode == 125 and why in done.stderr and done.stderr.count("\n") == 1
    for turn in ("cold", "warm"):
        done = subprocess.run(freezepoint.run_words(*words), input=INPUT, capture_output=True,
                              text=True, cwd=cwd or directory, env=freezepoint.env, timeout=30)
        lines = said(done)
        assert done.returncode == 6 and f" {len(INPUT)} " in done.stdout
        if turn == "cold":
            assert len(lines) == 2 and why in lines[0] and lines[0].endswith("; starting cold")
            assert f"{freezepoint.name}@1" in lines[0] and f"{freezepoint.name}@2" in lines[1]
            second = done.stdout.split()[0]
            assert second != first
        else:
            assert len(lines) == 1 and lines[0].startswith(f"restored {freezepoint.name}@2")
            assert done.stdout.split()[0] == second
    assert freezepoint.generations() == [1, 2]


def test_open_files_of_the_kernel_do_not_make_stale(freezepoint):
    words = ("--at", "times", "--", PYTHON, "-c",
             "import os; files = open('/proc/self/stat'), open('/proc/meminfo'); os.times()")
    for said in ("checkpoint ", "restored "):
        done = freezepoint.run(*words)
        assert done.returncode == 0 and done.stderr.startswith(f"freezepoint: {said}"), done.stderr
    assert freezepoint.generations() == [1]


@pytest.mark.parametrize("how", ["touched", "replaced", "gone"])
def test_stale_program_file(freezepoint, directory, how):
    program = directory / "threads"
    shutil.copy(APPS / "threads", program)
    words = ("--at", "rand_r#10", "--", program, 1, 20)
    assert freezepoint.run(*words).returncode == 0
    assert said(freezepoint.run(*words))[0].startswith("restored ")
    if how == "touched":
        program.touch()
    else:
        program.unlink()
    if how == "gone":
        done = freezepoint.run(*words)
        assert done.returncode == 127 and done.stderr.count("\n") == 1
        return
    if how == "replaced":
        shutil.copy2(APPS / "threads", program)
    done = freezepoint.run(*words)
    assert done.returncode == 0 and "each seen once" in done.stdout
    assert f"threads' has changed since; starting cold" in said(done)[0]
    assert freezepoint.generations() == [1, 2]


def test_stale_library(freezepoint, directory):
    library = directory / "libz.so.1"
    shutil.copy("/lib/x86_64-linux-gnu/libz.so.1", library)
    program = ("import ctypes, os; ctypes.CDLL('./libz.so.1'); os.times(); print('done')")
    words = ("--at", "times", "--", PYTHON, "-c", program)
    assert freezepoint.run(*words).returncode == 0
    assert said(freezepoint.run(*words))[0].startswith("restored ")
    os.utime(library, (1, 1))
    done = freezepoint.run(*words)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert f"'{library}' has changed since; starting cold" in said(done)[0]
    assert freezepoint.generations() == [1, 2]


@pytest.mark.parametrize("victim", ["manifest.pb", "preload.so", "criu/core-*.img",
                                    "criu/pages-*.img", "criu/inventory.img"])
def test_a_damaged_image_is_not_used(freezepoint, service, victim):
    service.run()
    path = next(freezepoint.image_path(1).glob(victim))
    bytes_ = bytearray(path.read_bytes())
    bytes_[len(bytes_) // 2] ^= 0x20
    path.write_bytes(bytes_)
    mark, lines = service.run()
    assert len(lines) == 2 and lines[0].endswith("; starting cold"), lines
    assert lines[1].startswith(f"checkpoint {freezepoint.name}@2")
    again, lines = service.run()
    assert again == mark and lines[0].startswith(f"restored {freezepoint.name}@2")
    assert service.starts() == 2


def test_a_failed_restore_loses_no_input(freezepoint, directory):
    """A file that is open for writing is gone: CRIU cannot restore the program."""
    (directory / "program.py").write_text(
        "import os\nlog = open('output.log', 'w')\nlog.write('x'); log.flush()\n" + PROGRAM)
    words = ("--at", "times", "--", PYTHON, "program.py")
    first = freezepoint.run(*words, stdin=None, input=INPUT)
    assert first.returncode == 6
    (directory / "output.log").unlink()
    done = freezepoint.run("--restore", "require", *words, stdin=None, input=INPUT)
    assert done.returncode == 125 and done.stdout == ""
    assert len(said(done)) == 1 and "restore failed" in said(done)[0]
    done = freezepoint.run(*words, stdin=None, input=INPUT)
    assert done.returncode == 6, done.stderr
    assert done.stdout.split()[1:] == [str(len(INPUT)), "39999"]
    assert len(said(done)) == 2 and said(done)[0].endswith("; starting cold")
    assert freezepoint.generations() == [1, 2]


def test_a_taken_port(freezepoint, directory):
    port = free_port()
    words = ("--at", "times", "--", PYTHON, "-c",
             "import os, socket, sys\n"
             "server = socket.socket()\n"
             "server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
             f"try: server.bind(('127.0.0.1', {port}))\n"
             "except OSError as error: print(error); sys.exit(11)\n"
             "server.listen()\n"
             "os.times()\n"
             "while True:\n"
             "    client, _ = server.accept()\n"
             "    client.recv(1000)\n"
             "    client.send(b'HTTP/1.0 200 OK\\r\\n\\r\\nhello'); client.close()\n")
    server = freezepoint.start_run(*words)
    server.wait_for_message("checkpoint ")
    assert wait_for(lambda: http_get(port), "the server") == (200, "hello")
    assert server.terminate() == 128 + 15
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = freezepoint.run(*words)
        # The cold start fails in the program's own words and with its own status.
        assert done.returncode == 11 and "in use" in done.stdout
        assert said(done)[0].endswith("; starting cold") and "restore failed" in said(done)[0]
    server = freezepoint.start_run(*words)
    server.wait_for_message("restored ")
    assert wait_for(lambda: http_get(port), "the server") == (200, "hello")
    assert server.terminate() == 128 + 15


def test_input_is_not_read_for_a_restored_program_that_ends(freezepoint, directory):
    """What the program does not read is still the caller's."""
    (directory / "input").write_text("one\ntwo\n")
    for _ in range(2):
        with open(directory / "input") as stream:
            done = freezepoint.call(
                ["sh", "-c", f'"$@"; echo status $?', "sh",
                 *freezepoint.run_words("--at", "times", "--", PYTHON, "-c",
                                        "import os; os.times(); print('ran')")], stdin=stream)
        assert done.stdout == "ran\nstatus 0\n"


def test_a_job_of_that_name_is_running(freezepoint, service):
    running = freezepoint.start_run("--", "sleep", "60")
    wait_for(freezepoint.pids, "the program")
    done = freezepoint.run(*service.words)
    assert done.returncode == 125 and done.stderr.count("\n") == 1
    assert f"a job named '{freezepoint.name}' is running" in done.stderr
    assert running.terminate() == 128 + 15


def test_points_that_remain_fire_in_a_warm_program(freezepoint, directory):
    """Two points: the image of the first has the second still to come."""
    program = ("import os\nos.times()\nprint('between', flush=True)\nos.getpgid(0)\n"
               "print('after', flush=True)")
    words = ("--at", "times", "--at", "getpgid", "--max", 1, "--", PYTHON, "-c", program)
    first = freezepoint.run(*words)
    assert first.stdout == "between\nafter\n" and freezepoint.generations() == [1]
    second = freezepoint.run(*words)
    assert second.stdout == "between\nafter\n" and freezepoint.generations() == [1, 2]
    assert "checkpoint " in said(second)[1] and " at getpgid#1 " in said(second)[1]
    third = freezepoint.run(*words)
    assert third.stdout == "after\n" and freezepoint.generations() == [1, 2]
