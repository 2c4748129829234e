"""Trees whose numbers are not all of living processes: CRIU must not take one of them
for itself when it restores."""

import pytest

from harness import PYTHON

# The second process forked after `member` has the number that comes to CRIU where
# only the living are counted.
DEAD = """
import os, sys, time

def child(status):
    out, hold = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(hold)
        os.read(out, 1)
        os._exit(status)
    os.close(out)
    return pid, hold

time.sleep(0.3)
member, end = child(5)
dead = []
for status in range(8):
    pid, hold = child(status)
    if sys.argv[1] == "leaders":
        os.setpgid(pid, pid)
        if status == 1:
            os.setpgid(member, pid)
            group = pid
    os.close(hold)
    if sys.argv[1] == "leaders":
        os.waitpid(pid, 0)
    else:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        dead.append(pid)
os.times()
if sys.argv[1] == "leaders":
    print("in its group:", os.getpgid(member) == group)
else:
    print("statuses:", [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in dead])
os.close(end)
print("member:", os.waitstatus_to_exitcode(os.waitpid(member, 0)[1]))
"""

SAID = {"zombies": "statuses: [0, 1, 2, 3, 4, 5, 6, 7]\nmember: 5\n",
        "leaders": "in its group: True\nmember: 5\n"}


@pytest.mark.parametrize("what", SAID)
def test_processes_that_are_dead(freezepoint, directory, what):
    """Ended and not waited for; or gone, but the leader of a group that is not."""
    (directory / "dead.py").write_text(DEAD)
    done = freezepoint.run("--at", "times", "--then", "stop", "--", PYTHON, "dead.py", what)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    for _ in range(2):
        done = freezepoint.restore(freezepoint.name)
        assert (done.returncode, done.stdout) == (0, SAID[what]), done.stderr
