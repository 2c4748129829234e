"""Where /run is mounted noexec no program can map the preload library from there: it
goes to a second place."""

import pathlib
import shutil
import subprocess

import pytest

from harness import PYTHON

CACHE = pathlib.Path("/var/cache/freezepoint")
PROGRAM = "import os; os.times(); print('went on'); os.getpgid(0); print('and on')"

# File systems that only this shell and what it starts can see.
SHELL = f"""
mount --make-rprivate / &&
mount -t tmpfs -o mode=755,"$1" tmpfs /run &&
mount -t tmpfs -o mode=755,"$2" tmpfs {CACHE} && shift 2 && "$@"
status=$?
find /run/freezepoint {CACHE} -name '*.so' -printf 'library %p\\n' >&2
exit $status
"""


@pytest.fixture
def call(freezepoint):
    """Runs freezepoint where /run and its second place are mounted like that."""
    here_before = CACHE.exists()
    CACHE.mkdir(exist_ok=True)

    def call_there(run, cache, words):
        return subprocess.run(["unshare", "-m", "sh", "-c", SHELL, "sh", run, cache, *words],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              cwd=freezepoint.directory, timeout=60)

    yield call_there
    if not here_before:
        shutil.rmtree(CACHE)


def run_words(tool, *options):
    return tool.run_words("--at", "times", "--at", "getpgid", *options, "--", PYTHON, "-c", PROGRAM)


def test_run_and_restore(freezepoint, call):
    done = call("noexec", "exec", run_words(freezepoint, "--then", "stop"))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    library = freezepoint.inspect()["preload"]
    assert library.startswith(f"{CACHE}/preload/")
    assert done.stderr.endswith(f", stopped\nlibrary {library}\n")
    # Again in fresh file systems, as after a reboot; the library is the image's.
    for there in ("noexec", "exec"):
        done = call(there, "exec", freezepoint.restore_words(f"{freezepoint.name}@1"))
        assert (done.returncode, done.stdout) == (0, "went on\nand on\n"), done.stderr
        assert f"library {library}\n" in done.stderr
    assert freezepoint.generations() == [1, 2, 3]
    for generation in (2, 3):
        assert freezepoint.inspect(f"{freezepoint.name}@{generation}")["point"] == "getpgid#1"
        done = call("noexec", "exec", freezepoint.restore_words(f"{freezepoint.name}@{generation}"))
        assert (done.returncode, done.stdout) == (0, "and on\n"), done.stderr


def test_warm_start(freezepoint, call):
    first = call("noexec", "exec", run_words(freezepoint, "--max", 1))
    assert (first.returncode, first.stdout) == (0, "went on\nand on\n"), first.stderr
    second = call("noexec", "exec", run_words(freezepoint, "--restore", "require", "--max", 1))
    assert (second.returncode, second.stdout) == (0, "went on\nand on\n"), second.stderr
    assert "restored " in second.stderr


def test_image_of_before_run_was_noexec(freezepoint, call):
    """It maps its library from /run and cannot be restored there; nothing runs."""
    assert freezepoint.call(run_words(freezepoint, "--then", "stop")).returncode == 0
    assert freezepoint.inspect()["preload"].startswith("/run/freezepoint/.preload/")
    done = call("noexec", "exec", freezepoint.restore_words(freezepoint.name))
    assert done.returncode == 77 and done.stdout == ""
    line, = done.stderr.splitlines()
    assert "'/run/freezepoint/.preload', which is mounted noexec" in line, line
    done = call("noexec", "exec", run_words(freezepoint))
    assert (done.returncode, done.stdout) == (0, "went on\nand on\n"), done.stderr
    assert "starting cold" in done.stderr


def test_both_places_noexec(freezepoint, call):
    done = call("noexec", "noexec", run_words(freezepoint))
    assert done.returncode == 77 and done.stdout == ""
    assert "mount -o remount,exec" in done.stderr and done.stderr.count("\n") == 1
    done = call("noexec", "noexec", freezepoint.command("doctor"))
    assert done.returncode == 77 and "needed: runtime-dir" in done.stdout
