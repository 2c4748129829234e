"""What cannot be done is refused in one clear line, or tried and told of, and the
program is none the worse for it."""

import os
import shutil
import signal
import subprocess

import pytest

from harness import PROGRAM, PYTHON, wait_for
from steady import END_STATUS, mounted, wrap_criu

LISTENER = "import socket; socket.socket().listen(); print('went on')"


def one_line(text):
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


def test_no_criu(freezepoint):
    freezepoint.env["FREEZEPOINT_CRIU"] = "/no/such/criu"
    done = freezepoint.run("--at", "listen", "--", PYTHON, "-c", LISTENER)
    assert done.returncode == 77 and done.stdout == ""
    assert "FREEZEPOINT_CRIU is '/no/such/criu'" in one_line(done.stderr)


@pytest.mark.parametrize("body", ["exit 1", "kill -9 $$", 'echo no >&2; exec sleep 0',
                                  "exec cat /dev/null"])
def test_criu_that_does_not_work(freezepoint, body):
    freezepoint.env["FREEZEPOINT_CRIU"] = str(wrap_criu(freezepoint, body))
    done = freezepoint.run("--at", "listen", "--", PYTHON, "-c", LISTENER)
    assert done.returncode == 0 and done.stdout == "went on\n"
    assert "failed, the program goes on" in done.stderr
    assert freezepoint.generations() == []


def test_criu_refuses_the_program(freezepoint):
    """An open connection, without --tcp: CRIU's reason, the log, and the remedy."""
    script = ("import socket; a = socket.socket(); a.bind(('127.0.0.1', 0)); a.listen();"
              "b = socket.create_connection(a.getsockname()); c = a.accept()[0];"
              "socket.socket().listen(); b.send(b'x'); print(c.recv(1))")
    done = freezepoint.run("--at", "listen#2", "--", PYTHON, "-c", script)
    assert done.returncode == 0 and done.stdout == "b'x'\n"
    line = one_line(done.stderr)
    assert "Connected TCP socket" in line and "--tcp established" in line
    log = line.split("log: ")[1].split(";")[0]
    assert "Dumping FAILED" in open(log).read()
    assert freezepoint.generations() == []


def test_full_store(steady):
    tool = steady.tool
    with mounted(tool.store, "size=3m,mode=700"):
        steady.run(megabytes=1)
        steady.running.wait_for_message("checkpoint .*@1 ")
        steady.end()
        steady.run(megabytes=8)
        steady.running.wait_for_message("checkpoint at .* failed, the program goes on")
        assert "full" in steady.running.err
        steady.assert_well()
        assert steady.end() == END_STATUS
        steady.assert_images(1)


def test_full_store_does_not_stop_a_program_that_was_to_be_stopped(steady):
    with mounted(steady.tool.store, "size=3m,mode=700"):
        steady.run("--then", "stop", megabytes=8)
        steady.running.wait_for_message("failed, the program goes on")
        steady.assert_well()
        assert steady.end() == END_STATUS
        steady.assert_images()


def test_store_on_another_filesystem(steady):
    with mounted(steady.tool.store, "size=64m,mode=700"):
        steady.run("--then", "stop")
        assert steady.running.wait() == 0
        steady.assert_images(1)
        steady.restore()
        steady.running.wait_for_message("restored")
        steady.assert_well()
        assert steady.end() == END_STATUS


def test_unwritable_store(freezepoint):
    with mounted(freezepoint.store, "size=1m,mode=700,ro"):
        done = freezepoint.run("--at", "listen", "--", PYTHON, "-c", LISTENER)
    assert done.returncode in (0, 125)
    assert "Read-only file system" in done.stderr
    assert done.returncode == 125 or done.stdout == "went on\n"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_store_that_others_can_write_to(freezepoint, mode):
    freezepoint.store.mkdir()
    freezepoint.store.chmod(mode)
    done = freezepoint.run("--at", "listen", "--", PYTHON, "-c", LISTENER)
    assert done.returncode == 125 and done.stdout == ""
    assert str(freezepoint.store) in one_line(done.stderr)


def test_program_that_ends_before_any_point(freezepoint):
    done = freezepoint.run("--at", "listen", "--", "sh", "-c", "exit 5")
    assert done.returncode == 5
    assert "no image: the program ended before 'listen' was hit" in one_line(done.stderr)
    assert freezepoint.images() == []


def test_misspelt_point(freezepoint):
    done = freezepoint.run("--at", "lisen", "--", PYTHON, "-c", LISTENER)
    assert done.returncode == 0 and "did you mean 'listen'?" in done.stderr
    for point, what in [("listen#zero", "column 8"), ("lis ten", "column 4"), ("", "missing"),
                        ("libc:", "column 6")]:
        done = freezepoint.run("--at", point, "--", PYTHON, "-c", LISTENER)
        assert done.returncode == 2 and done.stdout == "" and what in one_line(done.stderr)


@pytest.mark.parametrize("words", [
    ["run", "--bogus", "--", "true"], ["run"], ["run", "--at"], ["restore"],
    ["run", "--then", "maybe", "--", "true"], ["run", "--every", "0", "--", "true"],
    ["restore", "a", "b"], ["images", "x"], ["inspect"], ["bogus"], ["rm", "name"]])
def test_usage(freezepoint, words):
    done = freezepoint.call(freezepoint.command(*words))
    assert done.returncode == 2 and done.stdout == ""
    one_line(done.stderr)


def test_not_root(freezepoint, directory):
    """Run as nobody, from a place that nobody can reach."""
    copy = directory / "freezepoint"
    shutil.copy(PROGRAM, copy)
    directory.chmod(0o755)
    for words in (["run", "--at", "listen", "--", "true"], ["restore", "x"], ["images"]):
        done = subprocess.run([copy, *words], capture_output=True, text=True, timeout=20,
                              user=65534, group=65534, extra_groups=[], cwd="/")
        assert done.returncode == 77 and "needs root" in one_line(done.stderr)
    done = subprocess.run([copy, "doctor"], capture_output=True, text=True, timeout=60,
                          user=65534, group=65534, extra_groups=[], cwd="/")
    assert done.returncode == 77 and "missing" in done.stdout


def test_static_and_setuid_programs(freezepoint, directory):
    static = directory / "static"
    source = directory / "static.c"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-static", "-o", static, source], check=True, timeout=60)
    done = freezepoint.run("--at", "listen", "--", static)
    assert done.returncode == 2 and "statically linked" in one_line(done.stderr)
    setuid = directory / "setuid"
    shutil.copy("/bin/true", setuid)
    os.chown(setuid, 65534, 65534)
    setuid.chmod(0o4755)
    done = freezepoint.run("--at", "listen", "--", setuid)
    assert done.returncode == 2 and "set-uid" in one_line(done.stderr)


def test_two_jobs_of_one_name(steady):
    steady.run()
    steady.running.wait_for_message("checkpoint .*@1 ")
    second = steady.tool.run("--restore", "never", "--", "true")
    assert second.returncode == 125 and "is running" in one_line(second.stderr)
    steady.assert_well()
    assert steady.end() == END_STATUS
    steady.assert_images(1)


def flip(path):
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x40]))


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip, cut, os.unlink])
def test_damage_to_any_file(steady, damage):
    """Every file of the image in turn: nothing of it runs, and the file is named."""
    steady.make_image()
    image = steady.tool.image_path()
    kept = steady.tool.directory / "kept"
    shutil.copytree(image, kept, symlinks=True)
    files = [path.relative_to(image) for path in sorted(image.rglob("*")) if path.is_file()]
    assert len(files) > 15
    tried = 0
    for name in files:
        if name.name in ("dump.log",) or name.name.startswith("stats-"):
            continue  # not needed, and plain CRIU writes such files
        if (image / name).stat().st_size == 0 and damage is not os.unlink:
            continue
        damage(image / name)
        done = steady.tool.restore(steady.tool.name)
        assert done.returncode == 125 and done.stdout == "", (name, done.stderr)
        line = one_line(done.stderr)
        assert name.name in line or "manifest" in line, (name, line)
        shutil.rmtree(image)
        shutil.copytree(kept, image, symlinks=True)
        tried += 1
    assert tried > 12
    assert steady.ticks() == []
    shutil.rmtree(kept)
    steady.assert_images(1)


def test_unlisted_file_in_an_image(steady):
    steady.make_image()
    (steady.tool.image_path() / "criu" / "core-99999.img").write_bytes(b"x")
    done = steady.tool.restore(steady.tool.name)
    assert done.returncode == 125 and "core-99999.img" in one_line(done.stderr)


def test_damaged_image_is_not_started_from(steady):
    """`run` says why and starts cold; the next checkpoint is a new generation."""
    steady.make_image()
    flip(steady.tool.image_path() / "preload.so")
    steady.run_warm("--then", "stop")
    assert steady.running.wait() == 0
    assert "preload.so" in steady.running.err and "starting cold" in steady.running.err
    assert steady.tool.generations() == [1, 2]
    assert steady.output_ticks()[0] == 1


def test_program_dies_while_frozen_by_somebody_else(steady):
    """A signal during the pause is not lost."""
    steady.run(fault="dump:frozen=stop")
    steady.wait_until_stopped()
    os.kill(steady.app(), signal.SIGTERM)
    os.kill(steady.running.pid, signal.SIGCONT)
    assert steady.running.wait() == 128 + signal.SIGTERM
    wait_for(lambda: not steady.tool.group().exists(), "the group to go")


@pytest.mark.parametrize("left", ["cgroup.kill", "cgroup.freeze"])
def test_group_that_was_left_behind(freezepoint, left):
    """It is empty, but what was written to it would meet the next program in it."""
    freezepoint.group().mkdir(parents=True)
    (freezepoint.group() / left).write_text("1")
    done = freezepoint.run("--at", "times", "--", PYTHON, "-c", "import os; os.times()")
    assert done.returncode == 0 and freezepoint.generations() == [1], done.stderr


LATE = """
#include <asm/unistd.h>

__attribute__((destructor)) static void be_late(void)
{
    long half_a_second[2] = {0, 500000000}, result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(__NR_nanosleep), "D"(half_a_second), "S"(0)
                     : "rcx", "r11", "memory");
}
"""


def test_hit_while_the_restoring_criu_still_ends(freezepoint, directory):
    """The program that it has restored is in the same group, and hits its point at once."""
    (directory / "late.c").write_text(LATE)
    subprocess.run(["gcc", "-shared", "-fPIC", "-nostdlib", "-o", "late.so", "late.c"],
                   cwd=directory, check=True, timeout=60)
    program = "import os; os.times(); os.times(); print('went on')"
    done = freezepoint.run("--at", "times", "--every", 1, "--then", "stop", "--", PYTHON, "-c",
                           program)
    assert done.returncode == 0
    freezepoint.env["FREEZEPOINT_CRIU"] = str(
        wrap_criu(freezepoint, f'LD_PRELOAD={directory}/late.so exec "$CRIU" "$@"'))
    done = freezepoint.restore("--then", "stop", freezepoint.name)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert freezepoint.generations() == [1, 2]
    done = freezepoint.restore(freezepoint.name)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
