"""What the demonstrations print on, and how they are interrupted."""

import os
import shutil
import signal
import sys
import textwrap

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LINES_SHOWN = 3  # of a program's own


class Screen:
    BAR_WIDTH = 50

    def __init__(self):
        self.colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.width = min(shutil.get_terminal_size((100, 24)).columns, 100)
        plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
        self.block, self.line, self.dots, self.arrow = (
            ("#", "-", "...", "->") if plain else ("█", "─", "…", "→"))

    def paint(self, text, code):
        return f"\033[{code}m{text}\033[0m" if self.colours else text

    def say(self, text=""):
        print(text, flush=True)

    def heading(self, text):
        self.say("\n" + self.paint(f"{self.line * 2} {text} ".ljust(self.width, self.line), "1"))

    def step(self, text):
        self.say("\n" + textwrap.fill(text, self.width))

    def command(self, text):
        self.say(self.paint(f"  $ {text}", "1;36"))

    def output(self, text):
        """What freezepoint said whole; of the program's own lines the last ones."""
        lines = text.splitlines()
        own = [at for at, line in enumerate(lines) if not line.startswith("freezepoint: ")]
        hidden = set(own[:-LINES_SHOWN])
        if hidden:
            self.say(self.paint(f"    {self.dots} {len(hidden)} lines", "2"))
        for at, line in enumerate(lines):
            if at not in hidden:
                cut = line if len(line) <= self.width - 4 else (
                    line[:self.width - 4 - len(self.dots)] + self.dots)
                self.say("    " + (self.paint(cut, "2") if at in own else line))

    def result(self, text):
        self.say("  " + self.paint(text, "1"))

    def bar(self, label, value, longest, code, remark=""):
        length = max(1, round(self.BAR_WIDTH * value / longest))
        self.say(f"  {label} {self.paint(self.block * length, code)} {value:,.0f} ms{remark}")


class Interrupted(BaseException):
    def __init__(self, number):
        super().__init__(number)
        self.number = number


def interrupt(number, _frame):
    """Once: what is cleaned up then is not to be interrupted."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)
