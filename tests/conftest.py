"""Fixtures of the live and fault tests.

Each test has a time limit, a directory, a job name of its own, and leaves nothing
behind; a kernel WARNING or BUG during a test fails it.  A failing test keeps its
directory and says how to run it alone.
"""

import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import harness  # noqa: E402

DEFAULT_LIMIT = 90  # seconds

# Tests that cannot run everywhere, by name, and why.  A skip that is not listed
# here fails where CI=true.
EXPECTED_SKIPS = {
    f"test_dump_under_a_tracer[{case}]": "tracefs is not mounted everywhere"
    for case in ("detached", "attached")
} | {
    f"test_random_hits[{case}]": "its compiler is not installed for this"
    for case in ("rust-work::work::State::step", "rust v0-<work::work::State>::step",
                 "go-main.(*state).step")
} | {"test_python": "not every python3 has tracepoints"}


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): the test's time limit")


class KernelLog:
    """What the kernel has logged since it was opened."""

    def __init__(self):
        try:
            self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self.fd, 0, os.SEEK_END)
        except OSError:
            self.fd = -1

    def complaints(self):
        found = []
        while self.fd >= 0:
            try:
                record = os.read(self.fd, 8192).decode(errors="replace")
            except BlockingIOError:
                break
            except OSError:
                continue  # EPIPE: records were overwritten
            text = record.partition(";")[2].splitlines()[0]
            if re.search(r"^(WARNING:|BUG:|kernel BUG|INFO: task .* blocked)", text):
                found.append(text)
        return found

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)


@pytest.fixture(autouse=True)
def time_limit(request):
    marker = request.node.get_closest_marker("limit")
    seconds = marker.args[0] if marker else DEFAULT_LIMIT

    def expire(_signal, _frame):
        raise TimeoutError(f"the test took longer than {seconds} s")

    signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    yield
    signal.alarm(0)


@pytest.fixture(autouse=True)
def kernel_log():
    log = KernelLog()
    yield
    complaints = log.complaints()
    log.close()
    assert not complaints, f"the kernel complained: {complaints}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and item.name not in EXPECTED_SKIPS:
        report.outcome = "failed"
        report.longrepr = f"unexpected skip of {item.name}: {report.longrepr}"
    setattr(item, f"report_{report.when}", report)


def failed(node):
    return any(
        getattr(node, f"report_{when}", None) and getattr(node, f"report_{when}").failed
        for when in ("setup", "call")
    )


@pytest.fixture
def directory(request):
    path = pathlib.Path(tempfile.mkdtemp(prefix="freezepoint-test-"))
    yield path
    if failed(request.node):
        print(f"\nkept: {path}\nalone: make check-live TESTS={request.node.nodeid!r}")
    else:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def freezepoint(request, directory):
    tool = harness.Freezepoint(directory, f"t{os.getpid()}-{abs(hash(request.node.nodeid)) % 10**8}")
    yield tool
    clean = False
    try:
        if not failed(request.node):
            tool.assert_clean()
            clean = True
    finally:
        if not clean:
            for running in tool.started:
                print(f"--- {' '.join(map(str, running.process.args))}\n{running.err[-3000:]}")
            tool.clean_up()
