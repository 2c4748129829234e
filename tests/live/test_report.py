"""freezepoint points --report: the page, looked at in a real browser."""

import html.parser
import json
import os
import re
import stat
import subprocess
import time

import pytest
from PIL import Image, ImageStat

from harness import PYTHON, free_port, wait_for

# Chromium's own, whatever the page.
OWN_HOSTS = re.compile(r"^https?://([a-z0-9-]+\.)*(google|googleapis|gvt1|gstatic)\.com[/:]")

JAVA_THREADS = """
public class Threads {
    public static void main(String[] words) throws Exception {
        for (int i = 0; i < 30; i++) {
            int nap = 5 + i;
            Thread thread = new Thread(() -> {
                try {
                    while (true)
                        Thread.sleep(nap * 10);
                } catch (InterruptedException end) {
                }
            }, "napper-" + i);
            thread.start();
        }
        Thread.sleep(60000);
    }
}
"""

CLICKER = """<script>
addEventListener('load', () => document.querySelector('.pin[data-rank="1"]').click());
</script></body>"""


class Dom(html.parser.HTMLParser):
    """The elements of a page, and the text below those with an id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in ("meta", "link", "input", "br"):
            self.open.append((tag, attributes.get("id")))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for _, name in self.open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data

    def of_class(self, name):
        return [attributes for _, attributes in self.elements
                if name in (attributes.get("class") or "").split()]

    def count(self, tag):
        return sum(element == tag for element, _ in self.elements)


class Browser:
    def __init__(self, directory):
        self.directory = directory
        self.log = directory / "net.json"

    def run(self, page, *flags):
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={self.directory / 'chromium'}", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={self.log}",
            "--enable-logging=stderr", "--virtual-time-budget=3000", *flags, page.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60,
                              env={**os.environ, "HOME": str(self.directory)}, cwd=self.directory)
        assert done.returncode == 0, done.stderr
        self.console = re.findall(r".*CONSOLE.*", done.stderr)
        return done.stdout

    def requests(self):
        """What has been asked for over a network."""
        found = re.findall(r'"url":"([^"]*)"', self.log.read_text(errors="replace"))
        return [url for url in found
                if not url.startswith(("file:", "data:")) and not OWN_HOSTS.match(url)]

    def dom(self, page):
        dom = Dom(self.run(page, "--dump-dom"))
        assert not self.console and not self.requests()
        assert any(attributes.get("data-ready") == "yes" for _, attributes in dom.elements)
        return dom

    def picture(self, page, scheme):
        path = self.directory / f"{scheme}.png"
        self.run(page, f"--screenshot={path}", "--window-size=1400,1600",
                 f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}")
        assert not self.console
        return Image.open(path).convert("RGB")


@pytest.fixture
def browser(directory):
    return Browser(directory)


def report(freezepoint, *words):
    """The page's path and the data that is in it; what --json tells is the same."""
    page = freezepoint.directory / "page.html"
    done = freezepoint.call(freezepoint.command("points", "--json", "--report", page, *words))
    assert done.returncode == 0, done.stderr
    assert f"the report is in {page}" in done.stderr
    [data] = re.findall(r'<script type="application/json" id="data">(.*)</script>',
                        page.read_text(encoding="utf-8"))
    assert json.loads(data) == json.loads(done.stdout)
    return page, json.loads(data)


def assert_shows(dom, data):
    lanes = dom.of_class("lane")
    threads = data["timeline"]["threads"]
    assert sorted(int(lane["data-tid"]) for lane in lanes) == sorted(
        thread["tid"] for thread in threads)
    assert {pin["data-rank"] for pin in dom.of_class("pin")} == {
        str(rank + 1) for rank in range(len(data["advice"]))}
    assert sum(int(lane["data-hits"]) for lane in lanes) == len(data["hits"])
    assert len(dom.of_class("curve")) == 3
    for function in data["functions"]:
        assert function["function"] in dom.texts["functions"]
    if data["advice"]:
        assert data["advice"][0]["command"] in dom.texts["advice"]


def assert_drawn(picture):
    colours = picture.getcolors(maxcolors=1 << 24)
    assert len(colours) > 200
    assert max(number for number, _ in colours) < 0.9 * picture.width * picture.height


def test_a_server_in_a_browser(freezepoint, browser):
    command = [PYTHON, "-m", "http.server", free_port(), "--bind", "127.0.0.1"]
    page, data = report(freezepoint, "--", *command)
    assert data["advice"] and data["timeline"]["lost_runs"] == 0
    assert_shows(browser.dom(page), data)
    light, dark = browser.picture(page, "light"), browser.picture(page, "dark")
    assert_drawn(light)
    assert_drawn(dark)
    assert ImageStat.Stat(light.convert("L")).mean[0] > 200
    assert ImageStat.Stat(dark.convert("L")).mean[0] < 70
    assert stat.S_IMODE(page.stat().st_mode) == 0o644
    # A point's details have its callers, by name.
    clicked = freezepoint.directory / "clicked.html"
    clicked.write_text(page.read_text().replace("</body>", CLICKER))
    details = browser.dom(clicked).texts["details"]
    assert data["advice"][0]["point"] in details
    assert "Py_BytesMain" in details and "/usr/bin/python3" in details


def test_the_browser_would_tell(freezepoint, browser):
    """That requests and errors are found, if there are any."""
    page = freezepoint.directory / "bad.html"
    page.write_text("<img src='http://127.0.0.1:9/x'><script>console.error('seen'); none()</script>")
    browser.run(page, "--dump-dom")
    assert any("seen" in line for line in browser.console)
    assert "http://127.0.0.1:9/x" in browser.requests()


def test_java_with_thirty_threads(freezepoint, browser, directory):
    (directory / "Threads.java").write_text(JAVA_THREADS)
    subprocess.run(["javac", directory / "Threads.java"], check=True, timeout=60)
    page, data = report(freezepoint, "--for", "3s", "--", "java", "-XX:-UsePerfData", "-cp",
                        directory, "Threads")
    threads = data["timeline"]["threads"]
    nappers = [thread for thread in threads if thread["comm"].startswith("napper-")]
    assert len(nappers) == 30 and all(len(thread["spans"]) > 3 for thread in nappers)
    assert_shows(browser.dom(page), data)


# -- what it tells --

def rests_of(data, thread):
    """(reason, ns) of each of its rests."""
    spans, rests = thread["spans"], data["timeline"]["rests"]
    for (_, end, _, reason), following in zip(spans, [*spans[1:], [data["duration_ns"]]]):
        yield rests[reason].get("call", rests[reason]["kind"]), following[0] - end


def test_runs_and_waits_are_as_they_were(freezepoint):
    program = """
import time
def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
work(.2); time.sleep(.3); work(.1); time.sleep(5)
"""
    _, data = report(freezepoint, "--for", "3s", "--", PYTHON, "-c", program)
    [thread] = data["timeline"]["threads"]
    sleeps = [ns for reason, ns in rests_of(data, thread) if reason == "clock_nanosleep"]
    assert len(sleeps) == 2 and 0.29e9 < sleeps[0] < 0.5e9 and sleeps[1] > 1.5e9
    assert abs(thread["cpu_ns"] - data["cpu_ns"]) < 0.02e9
    # Up to the first sleep, and between the two.
    slept = next(i for i, (reason, _) in enumerate(rests_of(data, thread))
                 if reason == "clock_nanosleep")
    assert 0.2e9 < sum(span[2] for span in thread["spans"][:slept + 1]) < 0.35e9
    assert 0.09e9 < sum(span[2] for span in thread["spans"][slept + 1:]) < 0.15e9


def test_callers_have_names(freezepoint):
    _, data = report(freezepoint, "--", PYTHON, "-m", "http.server", free_port())
    for function in ("listen", "poll"):
        hit = next(hit for hit in data["hits"] if hit["function"] == function)
        symbols = [frame.get("symbol", "") for frame in hit["callers"]["frames"]]
        assert hit["callers"]["by"] == "unwind tables"
        assert function in symbols[0] and "_PyEval_EvalFrameDefault" in symbols
        assert symbols[-1] == "_start"


# -- a program that means harm --

HOSTILE = "</script><script>document.title='owned'</script>\u2028\u2029'\"`&lt;\x01\x7f<!--<script>"


def test_hostile_names_do_no_harm(freezepoint, browser):
    program = """
import ctypes, select
ctypes.CDLL(None).prctl(15, b"</script><img \\xff")
select.select([], [], [], 5)
"""
    page, data = report(freezepoint, "--", PYTHON, "-c", program, HOSTILE, b"\xff\xfe".decode(
        errors="surrogateescape"))
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 2
    assert data["program"][3] == HOSTILE and data["program"][4] == "\ufffd\ufffd"
    [thread] = data["timeline"]["threads"]
    assert thread["comm"] == "</script><img \ufffd"
    dom = browser.dom(page)
    assert (dom.count("script"), dom.count("img")) == (2, 0)
    assert dom.count("svg") == 6  # ruler, lane, three curves, overview
    assert "document.title='owned'" in dom.texts["head"]
    assert "</script><img" in dom.texts["chart"]
    assert_shows(dom, data)


# -- where it cannot be written --

@pytest.mark.parametrize("place, status", [
    ("/no/such/directory/page.html", 1), ("/proc/page.html", 1), ("/dev/null", 2), ("/tmp", 2)])
def test_refused_before_the_program_starts(freezepoint, directory, place, status):
    started = directory / "started"
    done = freezepoint.call(freezepoint.command("points", "--report", place, "--", "touch", started))
    assert done.returncode == status and len(done.stderr.splitlines()) == 1, done.stderr
    assert place in done.stderr and not started.exists()


def test_written_whole_or_not_at_all(freezepoint, directory):
    """What was there stays, and nothing beside it, until the new one is complete."""
    page, link = directory / "page.html", directory / "link.html"
    page.write_text("former")
    link.symlink_to(page)
    words = ["points", "--for", "1m", "--report", link, "--", "sleep", 100]
    running = freezepoint.start(freezepoint.command(*words))
    group = freezepoint.cgroups / f"points.{running.pid}"
    wait_for(lambda: group.is_dir() and (group / "cgroup.procs").read_text(), "the program to run")
    assert page.read_text() == "former"
    assert not list(directory.glob(".freezepoint-*"))
    time.sleep(0.5)
    assert running.terminate() == 0
    assert link.is_symlink() and page.read_text().startswith("<!doctype html>")
    assert not list(directory.glob(".freezepoint-*"))
