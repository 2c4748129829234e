"""Programs on a terminal: keys, job control, window sizes, modes, and restoring on
another terminal or on none."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from harness import PYTHON, children_of, comm_of, state_of, wait_for
from terminal import Terminal

# Answers each line; the point is hit with each.
ECHOER = """
import os, sys
print("terminals", *(os.isatty(fd) for fd in (0, 1, 2)), flush=True)
count = 0
for line in iter(sys.stdin.readline, ""):
    count += 1
    os.times()
    print(f"<{count}:{line.strip()}>", flush=True)
print("end of input", flush=True)
sys.exit(9)
"""

TICKER = """
import os, time
count = 0
print("ready", flush=True)
while not os.path.exists("stop"):
    count += 1
    print("tick", count, flush=True)
    time.sleep(0.05)
"""

SIZES = """
import fcntl, os, signal, struct, sys, termios, time
def show(*_):
    size = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, b" " * 8))
    print("size %d %d" % size[:2], flush=True)
signal.signal(signal.SIGWINCH, show)
os.times()
show()
while not os.path.exists("stop"):
    time.sleep(0.02)
"""

RAW = """
import os, sys, termios, tty
former = termios.tcgetattr(0)
tty.setraw(0)
os.write(1, b"raw\\r\\n")
os.times()
keys = b""
while not keys.endswith(b"q"):
    keys += os.read(0, 1)
    os.write(1, b"key %r\\r\\n" % keys[-1:])
if len(sys.argv) > 1:
    os.abort()  # without having put the terminal back
termios.tcsetattr(0, termios.TCSADRAIN, former)
"""


@pytest.fixture
def terminal(freezepoint, directory):
    opened = []

    def open_terminal(**keywords):
        opened.append(Terminal(directory, freezepoint.env, **keywords))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


@pytest.fixture
def program(directory):
    def write(text, name="program.py"):
        (directory / name).write_text(text)
        return [PYTHON, name]

    return write


def supervisor_of(shell):
    """Pid of the freezepoint that a shell has started."""
    def find():
        found = [pid for pid in children_of(shell.child.pid) if comm_of(pid) == "freezepoint"]
        return found[0] if found else None
    return wait_for(find, "freezepoint to be a child of the shell")


# -- the program's terminal --


def test_terminal_is_one(freezepoint, terminal, program):
    shell = terminal(size=(30, 90))
    modes = shell.modes()
    shell.start(freezepoint.run_words("--", *program(ECHOER)))
    shell.expect("terminals True True True")
    shell.line("hello")
    shell.expect("hello\r\n<1:hello>")  # echoed once
    shell.line("again")
    assert shell.expect(r"again\r\n(.*)<2:again>").group(1) == ""
    shell.key("d")
    shell.expect("end of input")
    shell.expect_prompt()
    assert shell.status() == 9
    assert shell.modes() == modes


def test_what_the_shell_says_of_its_terminal(freezepoint, terminal):
    shell = terminal(size=(33, 97))
    shell.start(freezepoint.run_words("--", "sh", "-c", "tty; stty size; stty -a; ps -o tty= $$"))
    shell.expect(r"/dev/pts/(\d+)\r\n33 97\r\n")
    inner = shell.child.match.group(1)
    shell.expect("icanon")
    shell.expect(rf"pts/{inner}\s")
    shell.expect_prompt()
    assert shell.status() == 0


def test_window_changes_reach_the_program(freezepoint, terminal, program, directory):
    shell = terminal(size=(24, 80))
    shell.start(freezepoint.run_words("--at", "times", "--", *program(SIZES)))
    shell.expect("size 24 80")
    shell.resize(50, 132)
    shell.expect("size 50 132")
    shell.resize(10, 20)
    shell.expect("size 10 20")
    (directory / "stop").touch()
    shell.expect_prompt()
    (directory / "stop").unlink()

    other = terminal(size=(40, 100))
    other.start(freezepoint.restore_words(freezepoint.name))
    other.expect("size 40 100")
    other.resize(41, 101)
    other.expect("size 41 101")
    (directory / "stop").touch()
    other.expect_prompt()


def test_raw_mode_and_single_keys(freezepoint, terminal, program):
    shell = terminal()
    modes = shell.modes()
    shell.start(freezepoint.run_words("--", *program(RAW)))
    shell.expect("raw\r\n")
    shell.type("x")
    shell.expect("key b'x'")
    for letter, code in (("c", "x03"), ("z", "x1a"), ("d", "x04"), ("s", "x13")):
        shell.key(letter)
        shell.expect(rf"key b'\\{code}'")
    shell.type("q")
    shell.expect_prompt()
    assert shell.modes() == modes


def test_modes_come_back_after_a_crash(freezepoint, terminal, program):
    shell = terminal()
    modes = shell.modes()
    shell.start(freezepoint.run_words("--", *program(RAW), "crash"))
    shell.expect("raw\r\n")
    shell.type("q")
    shell.expect_prompt()
    assert shell.status() == 128 + signal.SIGABRT
    assert shell.modes() == modes


def test_secret_input_is_not_echoed(freezepoint, terminal):
    shell = terminal()
    shell.start(freezepoint.run_words(
        "--", PYTHON, "-c", "import getpass; print('len', len(getpass.getpass('word: ')))"))
    shell.expect("word: ")
    time.sleep(0.1)
    shell.line("hidden")
    shown = shell.expect("(?s)(.*)len 6").group(1)
    assert "hidden" not in shown
    shell.expect_prompt()


# -- keys that are signals, and job control --


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("key, number", [("c", signal.SIGINT), ("\\", signal.SIGQUIT)])
def test_keys_that_end(freezepoint, terminal, key, number, restored):
    shell = terminal()
    modes = shell.modes()
    shell.line("ulimit -c 0")
    shell.expect_prompt()
    script = "import os, time; os.times(); print('ready', flush=True); time.sleep(60)"
    words = ("--at", "times", "--", PYTHON, "-c", script)
    if restored:
        shell.start(freezepoint.run_words("--then", "stop", *words))
        shell.expect("stopped")
        shell.expect_prompt()
        shell.start(freezepoint.restore_words(freezepoint.name))
    else:
        shell.start(freezepoint.run_words(*words))
    shell.expect("\r\nready")
    time.sleep(0.1)
    shell.key(key)
    shell.expect_prompt()
    assert shell.status() == 128 + number
    assert shell.modes() == modes


@pytest.mark.limit(120)
@pytest.mark.parametrize("restored", [False, True])
def test_suspending_and_continuing(freezepoint, terminal, program, directory, restored):
    shell = terminal()
    modes = shell.modes()
    words = program("import os\nos.times()\n" + TICKER)
    if restored:
        shell.start(freezepoint.run_words("--at", "times", "--then", "stop", "--", *words))
        shell.expect("stopped")
        shell.expect_prompt()
        shell.start(freezepoint.restore_words(freezepoint.name))
    else:
        shell.start(freezepoint.run_words("--", *words))
    shell.expect("tick 3")
    app = [pid for pid in freezepoint.pids() if comm_of(pid).startswith("python")][0]

    shell.key("z")
    shell.expect("Stopped")
    shell.expect_prompt()
    wait_for(lambda: state_of(app) == "T", "the program to stop")
    assert shell.modes() == modes
    assert "Stopped" in shell.ask("jobs")

    shell.line("fg")
    shell.expect(r"tick \d+")
    assert state_of(app) in "SR"
    shell.key("z")
    shell.expect("Stopped")
    shell.expect_prompt()

    shell.line("bg")
    shell.expect(r"tick \d+")
    wait_for(lambda: state_of(app) in "SR", "the program to go on in the background")
    wait_for(shell.foreground_is_shell, "the shell in front")
    shell.line("echo in 'front'")
    shell.expect("in front")
    shell.line("fg")
    shell.expect(r"run|restore")
    shell.expect(r"tick \d+")
    time.sleep(0.5)
    shell.key("c")
    shell.expect("KeyboardInterrupt")
    shell.expect_prompt()
    assert shell.modes() == modes
    assert shell.ask("jobs") == ""


def test_a_shell_inside_has_job_control_of_its_own(freezepoint, terminal):
    shell = terminal()
    shell.start(freezepoint.run_words("--", "bash", "--norc", "--noprofile", "--noediting", "-i"))
    shell.expect("shell> ")
    shell.line("echo 'inner' $((40 + 2))")
    shell.expect("inner 42")
    shell.line("sleep 60")
    time.sleep(0.3)
    shell.key("z")
    shell.expect("Stopped")
    shell.expect("shell> ")
    shell.line("jobs; kill %1; echo 'still' inner")
    shell.expect("sleep 60")
    shell.expect("still inner")
    shell.line("cat")
    shell.line("to cat")
    shell.expect("to cat\r\nto cat")
    shell.key("c")
    shell.expect("shell> ")
    shell.line("exit 12")
    shell.expect_prompt()
    assert shell.status() == 12


def test_a_program_that_stops_itself_stops_the_job(freezepoint, terminal):
    shell = terminal()
    shell.start(freezepoint.run_words(
        "--", "bash", "-c", "echo before; kill -STOP $$; echo 'after'; exit 3"))
    shell.expect("before")
    shell.expect("Stopped")
    shell.expect_prompt()
    shell.line("fg")
    shell.expect("\nafter")
    shell.expect_prompt()
    assert shell.status() == 3


def test_background_job(freezepoint, terminal, program, directory):
    """It writes, its input waits until it comes to the front."""
    shell = terminal()
    modes = shell.modes()
    shell.line(" ".join(map(str, freezepoint.run_words("--", *program(ECHOER)))) + " &")
    shell.expect("terminals True True True")
    shell.line("echo for 'the' shell")
    shell.expect("for the shell")
    shell.line("fg")
    shell.expect("freezepoint run")
    time.sleep(0.6)  # brought to the front: nobody tells
    shell.line("for the program")
    shell.expect("<1:for the program>")
    shell.key("d")
    shell.expect("end of input")
    shell.expect_prompt()
    assert shell.modes() == modes


def test_only_input_is_a_terminal(freezepoint, terminal, program):
    shell = terminal()
    words = " ".join(map(str, freezepoint.run_words("--", *program(ECHOER))))
    shell.line(f"{words} | tr a-z A-Z; echo 'status' ${{PIPESTATUS[0]}}")
    shell.expect("TERMINALS TRUE FALSE TRUE")
    shell.line("word")
    shell.expect("<1:WORD>")
    shell.key("d")
    shell.expect("status 9")
    shell.expect_prompt()


def test_only_output_is_a_terminal(freezepoint, terminal, program):
    shell = terminal()
    words = " ".join(map(str, freezepoint.run_words("--", *program(ECHOER))))
    shell.line(f"printf 'one\\ntwo\\n' | {words}; echo 'status' $?")
    shell.expect("terminals False True True\r\n")
    shell.expect("<1:one>\r\n<2:two>\r\nend of input\r\nstatus 9")
    shell.expect_prompt()


# -- freezepoint's death, and a terminal that goes away --


def test_modes_come_back_when_freezepoint_is_killed(freezepoint, terminal, program, directory):
    shell = terminal()
    modes = shell.modes()
    shell.start(freezepoint.run_words("--", *program(TICKER)))
    shell.expect("tick 2")
    pids = freezepoint.pids()
    os.kill(supervisor_of(shell), signal.SIGKILL)
    shell.expect("Killed")
    shell.line("")
    shell.expect_prompt()
    wait_for(lambda: shell.modes() == modes, "the terminal's modes to come back")
    assert freezepoint.pids() == pids  # it lives on, with its output
    shell.expect(r"tick \d+")
    (directory / "stop").touch()
    wait_for(lambda: not freezepoint.group().exists(), "the program's end")


def test_a_closed_terminal_hangs_the_program_up(freezepoint, terminal, program, directory):
    script = ("import os, signal, sys, time\n"
              "def note(*_):\n    open('hangup', 'w'); sys.exit(0)\n"
              "signal.signal(signal.SIGHUP, note)\nprint('ready', flush=True)\n"
              "while True: time.sleep(0.05)\n")
    shell = terminal()
    shell.start(freezepoint.run_words("--", *program(script)))
    shell.expect("ready")
    shell.close()
    wait_for(lambda: (directory / "hangup").exists(), "the program's SIGHUP")
    wait_for(lambda: not freezepoint.group().exists(), "the job's end")


# -- restoring elsewhere --


@pytest.mark.parametrize("text", ["lines", "raw"])
def test_restored_on_another_terminal(freezepoint, terminal, program, text):
    words = program(ECHOER if text == "lines" else RAW)
    shell = terminal()
    point = "times#2" if text == "lines" else "times"
    shell.start(freezepoint.run_words("--at", point, "--", *words))
    if text == "lines":
        shell.line("first")
        shell.expect("<1:first>")
        shell.line("second")
        shell.expect("<2:second>")
        shell.key("d")
    else:
        shell.expect("checkpoint ")
        shell.type("q")
    shell.expect_prompt()

    for _ in range(2):
        other = terminal()
        modes = other.modes()
        other.start(freezepoint.restore_words(freezepoint.name))
        if text == "lines":
            other.expect(r"(?s)restored .*<2:second>|<2:second>.*restored ")
            other.line("third")
            other.expect("third\r\n<3:third>")
            other.key("d")
            other.expect("end of input")
            other.expect_prompt()
            assert other.status() == 9
        else:
            other.expect("restored ")
            other.type("k")
            other.expect("key b'k'")
            other.type("q")
            other.expect_prompt()
        assert other.modes() == modes


def test_from_a_terminal_to_pipes(freezepoint, terminal, program):
    shell = terminal()
    shell.start(freezepoint.run_words("--at", "times", "--", *program(ECHOER)))
    shell.line("first")
    shell.expect("<1:first>")
    shell.key("d")
    shell.expect_prompt()
    done = freezepoint.restore(freezepoint.name, stdin=None, input="second\nthird\n")
    assert done.returncode == 9, done.stderr
    out = done.stdout
    assert "\r" not in out
    for answer in ("<1:first>", "<2:second>", "<3:third>", "end of input"):
        assert f"{answer}\n" in out
    # Nobody at all on the other side.
    done = freezepoint.restore(freezepoint.name)
    assert done.returncode == 9 and done.stdout.endswith("<1:first>\nend of input\n")


def test_from_pipes_to_a_terminal(freezepoint, terminal, program):
    done = freezepoint.run("--at", "times", "--", *program(ECHOER), stdin=None, input="first\n")
    assert done.returncode == 9
    shell = terminal()
    modes = shell.modes()
    shell.start(freezepoint.restore_words(freezepoint.name))
    # Its message may come between the program's two writes of a line.
    shell.expect("<1:first>(freezepoint: restored [^\n]*\n)?\r\n")
    shell.line("second")
    shell.expect("<2:second>")
    shell.key("d")
    shell.expect("end of input")
    shell.expect_prompt()
    assert shell.status() == 9 and shell.modes() == modes


def test_an_interactive_shell_is_restored(freezepoint, terminal):
    """Its own job control goes on working, on the new terminal."""
    shell = terminal()
    inner = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
    shell.start(freezepoint.run_words("--at", "fork#2", "--then", "stop", "--", *inner))
    shell.expect("shell> ")
    shell.line("kept=value; true | true")
    shell.expect("stopped")
    shell.expect_prompt()

    other = terminal()
    other.start(freezepoint.restore_words(freezepoint.name))
    other.expect("restored ")
    other.line("echo 'it is' $kept")
    other.expect("it is value")
    other.line("sleep 60")
    time.sleep(0.5)
    other.key("z")
    other.expect("Stopped")
    other.line("fg")
    time.sleep(0.3)
    other.key("c")
    other.expect("shell> ")
    other.line("exit 4")
    other.expect("exit 4\r\n(?s:.*)exit\r\n")
    other.expect_prompt()
    assert other.status() == 4


def test_warm_start_on_a_terminal(freezepoint, terminal, program):
    words = freezepoint.run_words("--at", "times", "--", *program(ECHOER))
    shell = terminal()
    for turn in ("checkpoint ", "restored "):
        shell.start(words)
        if turn == "restored ":
            shell.expect(turn)
        shell.line("typed")
        shell.expect("<1:" if turn == "checkpoint " else "<2:")
        shell.key("d")
        shell.expect("end of input")
        shell.expect_prompt()
        assert shell.status() == 9
