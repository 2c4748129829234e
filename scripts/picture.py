"""Draws what clients saw of moves, with gnuplot: 4 packages in Debian where matplotlib is 39,
and its scripts have stayed the same for decades."""

import pathlib
import subprocess
import tempfile

STEPS = 2000  # over the width
SCRIPT = pathlib.Path(__file__).with_name("latency.gnuplot")


def latencies(times, began_ns, ended_ns):
    """(seconds, median, longest) in ms of each step of time, of those that awaited an answer
    in it."""
    step = (ended_ns - began_ns) / STEPS
    seen = [[] for _ in range(STEPS)]
    for sent, there in zip(*times):
        first = max(0, int((sent - began_ns) / step))
        last = min(STEPS - 1, int((there - began_ns) / step))
        for at in range(first, last + 1):
            seen[at].append((there - sent) / 1e6)
    for at, each in enumerate(seen):
        if each:
            each.sort()
            yield at * step / 1e9, each[len(each) // 2], each[-1]


def write_way(directory, number, run, seconds):
    began = run.times[0][0]
    answers, marks = directory / f"answers{number}", directory / f"marks{number}"
    with open(answers, "w") as out:
        for row in latencies(run.times, began, began + seconds * 1e9):
            print(row[0], 0, *row[1:], file=out)
    with open(marks, "w") as out:
        for move in run.moves:
            print((move.began_ns - began) / 1e9, (move.ended_ns - began) / 1e9,
                  f'"{move.gap:.0f} ms"', file=out)
    return answers, marks


def draw(path, runs):
    """One panel for each run, on the same scales."""
    seconds = max((run.times[1][-1] - run.times[0][0]) / 1e9 for run in runs)
    longest = max(move.gap for run in runs for move in run.moves)
    moves = len(runs[0].moves)
    with tempfile.TemporaryDirectory(prefix="freezepoint-picture-") as name:
        files = [write_way(pathlib.Path(name), at, run, seconds) for at, run in enumerate(runs)]
        titles = " ".join(f"'{run.title}: median gap {run.medians()['gap']:.0f} ms, "
                          f"{run.answers:,} answers, none lost or doubled'" for run in runs)
        settings = {
            "out": path, "ways": len(runs), "seconds": f"{seconds:.3f}", "bottom": "0.01",
            "top": f"{longest * 4:.0f}", "titles": titles.replace("'", '\\"'),
            "files": " ".join(str(pair[0]) for pair in files),
            "marks": " ".join(str(pair[1]) for pair in files),
            "heading": f"redis moves {moves} times between two hosts, under a client at full speed"}
        words = "; ".join(f'{key}="{value}"' if not str(value).replace(".", "").isdigit()
                          else f"{key}={value}" for key, value in settings.items())
        subprocess.run(["gnuplot", "-e", words, SCRIPT], check=True, timeout=120)
