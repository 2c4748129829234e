"""Probes in static programs of other languages than C, by the names that their authors know."""

import os
import pathlib
import random
import shutil
import subprocess

import pytest

from harness import APPS

SOURCES = pathlib.Path(__file__).parents[1] / "apps"
THREADS, CALLS, ROUNDS = 4, 5000, 4

COMPILERS = {
    "c++": ["g++", "-static", "-O1", "-pthread", "-o", "{out}", SOURCES / "work.cc"],
    "rust": ["rustc", "-O", "-Ctarget-feature=+crt-static", "-o", "{out}", SOURCES / "work.rs"],
    "rust v0": ["rustc", "-O", "-Ctarget-feature=+crt-static", "-Csymbol-mangling-version=v0", "-o",
                "{out}", SOURCES / "work.rs"],
    "go": ["go", "build", "-o", "{out}", SOURCES / "work.go"],
}


def build(language):
    """The program, built once."""
    words = [str(word) for word in COMPILERS[language]]
    if not shutil.which(words[0]):
        pytest.skip(f"no {words[0]}")
    program = APPS / f"work-{language.replace(' ', '-')}"
    source = pathlib.Path(words[-1])
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        env = dict(os.environ, CGO_ENABLED="0", GO111MODULE="off")
        subprocess.run([word.format(out=program) for word in words], check=True, timeout=300,
                       cwd=APPS, env=env)
    return program


@pytest.mark.parametrize("language, symbol", [
    ("c++", "work::State::step(unsigned long)"), ("rust", "work::work::State::step"),
    ("rust v0", "<work::work::State>::step"), ("go", "main.(*state).step")])
def test_random_hits(freezepoint, language, symbol):
    program = build(language)
    wanted = subprocess.run([program, str(THREADS), str(CALLS)], capture_output=True, text=True,
                            check=True, timeout=60).stdout
    seed = int(os.environ.get("PROBE_SEED", random.randrange(10**6)))
    print(f"PROBE_SEED={seed}")
    numbers = random.Random(seed)
    for generation in range(1, ROUNDS + 1):
        number = numbers.randint(1, THREADS * CALLS)
        done = freezepoint.run("--restore", "never", "--at", f"probe:{program}:{symbol}#{number}",
                               "--", program, THREADS, CALLS)
        assert (done.returncode, done.stdout) == (0, wanted), (number, done.stderr)
        image = f"{freezepoint.name}@{generation}"
        assert freezepoint.inspect(image)["hit"]["hit"] == number
        done = freezepoint.restore(image)
        assert (done.returncode, done.stdout) == (0, wanted), (number, done.stderr)


def test_overloaded_function(freezepoint):
    program = build("c++")
    done = freezepoint.run("--at", f"probe:{program}:work::State::step", "--", program, 1, 1)
    assert done.returncode == 2 and "has 2 functions 'work::State::step', at 0x" in done.stderr
    assert "(work::State::step(unsigned long, char const*))" in done.stderr
    done = freezepoint.run("--at", f"probe:{program}:work::State::stp", "--", program, 1, 1)
    assert done.returncode == 2 and "did you mean 'work::State::step'?" in done.stderr
