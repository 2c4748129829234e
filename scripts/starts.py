"""How long a program takes from the start of its command to its first answer."""

import os
import signal
import subprocess
import time

from bench_programs import await_silence

ANSWER_LIMIT_S = 60
END_LIMIT_S = 30


class Gate:
    """A command that is loaded but waits: opening the gate costs the same for
    everybody, and what it takes to get so far counts for nobody."""

    def __init__(self, words, out, before=(), after="", **keywords):
        script = 'read -r go; ' + (f'"$@" </dev/null && {after}' if after else 'exec "$@" </dev/null')
        self.out = out
        self.process = subprocess.Popen(
            [*before, "sh", "-c", script, "sh", *map(str, words)], stdin=subprocess.PIPE,
            stdout=out, stderr=out, start_new_session=True, **keywords)

    def open(self):
        """Returns when that was, on the monotonic clock, in ns."""
        opened = time.monotonic_ns()
        os.write(self.process.stdin.fileno(), b"go\n")
        return opened

    def running(self):
        return self.process.poll() is None

    def end(self, number=signal.SIGKILL):
        if self.running():
            self.process.send_signal(number)
        self.process.stdin.close()
        return self.process.wait(END_LIMIT_S)


def first_answer(gate, program):
    """Opens the gate; returns the time until the program answers, in ms."""
    opened = gate.open()
    while not program.ask():
        assert gate.running(), f"{program.name} ended before it answered; see {gate.out.name}"
        assert time.monotonic_ns() - opened < ANSWER_LIMIT_S * 1e9, f"{program.name} does not answer"
        time.sleep(0.0003)
    return (time.monotonic_ns() - opened) / 1e6


def start_and_end(program, words, output, number=signal.SIGKILL, answered=None, **keywords):
    """Starts the command, its streams appended to the file `output`, and ends it by
    signal `number` once it has answered and answered() has returned.  Returns the
    time until the answer, in ms."""
    with open(output, "ab") as out:
        gate = Gate(words, out, cwd=program.directory, **keywords)
    try:
        took = first_answer(gate, program)
        if answered:
            answered()
        return took
    finally:
        gate.end(number)
        await_silence(program)


def turns(ways, times):
    """The ways, each `times` times, in an order that favours none of them."""
    for turn in range(times):
        yield list(ways) if turn % 2 == 0 else list(reversed(ways))
