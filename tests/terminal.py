"""A terminal with an interactive shell on it, for tests: pexpect with limits."""

import os
import re
import time

import pexpect

from harness import wait_for

PROMPT = "shell> "


class Terminal:
    """An interactive bash with job control on a pty of its own."""

    def __init__(self, directory, env=None, size=(24, 80)):
        environment = dict(env or os.environ, PS1=PROMPT, TERM="dumb", HISTFILE="")
        environment.pop("PROMPT_COMMAND", None)
        self.child = pexpect.spawn(
            "/bin/bash", ["--norc", "--noprofile", "--noediting", "-i"], cwd=str(directory),
            env=environment, dimensions=size, timeout=20, encoding="utf-8", codec_errors="replace")
        self.child.delaybeforesend = None
        self.expect_prompt()

    def type(self, text):
        self.child.send(text)

    def line(self, text):
        self.child.send(text + "\n")

    def key(self, letter):
        self.child.sendcontrol(letter)

    def expect(self, pattern, timeout=20):
        """The match; output up to it is consumed."""
        try:
            self.child.expect(pattern, timeout=timeout)
        except (pexpect.TIMEOUT, pexpect.EOF) as error:
            raise AssertionError(
                f"waited {timeout} s for {pattern!r}; on the terminal:\n{self.child.before}"
            ) from error
        return self.child.match

    def expect_prompt(self):
        self.expect(re.escape(PROMPT))
        return self.child.before

    def ask(self, command):
        """Runs a command in the shell and returns what it printed."""
        self.line(command)
        shown = self.expect_prompt().replace("\r\n", "\n")
        return shown.partition("\n")[2].strip()

    def start(self, words):
        self.line(" ".join(quote(word) for word in words))

    def status(self):
        return int(self.ask("echo $?"))

    def modes(self):
        return self.ask("stty -g")

    def foreground_is_shell(self):
        return os.tcgetpgrp(self.child.child_fd) == self.child.pid

    def resize(self, rows, columns):
        self.child.setwinsize(rows, columns)

    def close(self):
        """Ends the shell as a closed window does."""
        self.child.close(force=False)
        deadline = time.monotonic() + 5
        while self.child.isalive() and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.child.isalive():
            self.child.close(force=True)

    def wait_for_shell(self):
        wait_for(self.foreground_is_shell, "the shell to be in the foreground")


def quote(word):
    return "'" + str(word).replace("'", "'\\''") + "'"
