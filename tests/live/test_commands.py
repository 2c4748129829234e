"""The commands that look at images and at the machine, their texts, and what
`make install` puts where."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pexpect
import pytest

from harness import APPS, PROGRAM, PYTHON, ROOT, wait_for

COMMANDS = ["run", "restore", "ps", "images", "inspect", "verify", "rm", "points",
            "migrate", "receive", "doctor", "help"]
TEMPLATE = ROOT / "cli" / "freezepoint.1.in"


@pytest.fixture
def made(freezepoint):
    """Three generations of one small program."""
    done = freezepoint.run("--at", "rand_r#10", "--every", 30, "--max", 3, "--",
                           APPS / "threads", 1, 100)
    assert done.returncode == 0 and freezepoint.generations() == [1, 2, 3]
    return freezepoint


def command(tool, *words, **keywords):
    """One that takes --images."""
    return tool.call(tool.command(*words, "--images", tool.store), **keywords)


def said(done, status):
    """The one line that it said on its error stream."""
    assert done.returncode == status and done.stdout == "", (done.returncode, done.stdout)
    assert done.stderr.startswith("freezepoint: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("freezepoint: ").rstrip("\n")


def latest(tool):
    return os.readlink(tool.store / tool.name / "latest")


# -- images --


def test_images(made):
    listed = made.json("images")
    assert [(image["name"], image["generation"], image["newest"], image["point"])
            for image in listed] == [
        (made.name, number, number == 3, f"rand_r#{hit}") for number, hit in
        ((1, 10), (2, 40), (3, 70))]
    for image in listed:
        assert image["executable"] == str(APPS / "threads") and image["processes"] == 1
        assert image["threads"] == 2 and image["created_unix_ns"] > 10 ** 18
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", image["created"])
        assert image["size_bytes"] > 10000 and image["size_on_disk_bytes"] > 10000
        assert "problem" not in image
    text = command(made, "images").stdout.splitlines()
    assert text[0].split() == ["IMAGE", "CREATED", "POINT", "SIZE", "PROCS", "PROGRAM"]
    assert [line.split()[0] for line in text[1:]] == [f"{made.name}@{n}" for n in (1, 2, 3)]
    assert all(f"rand_r#{hit} " in line and line.endswith(str(APPS / "threads"))
               for line, hit in zip(text[1:], (10, 40, 70)))


def test_images_of_several_names_one_damaged(made):
    for name in ("aa", "zz"):
        shutil.copytree(made.store / made.name, made.store / name, symlinks=True)
    (made.store / "zz" / "2" / "manifest.pb").write_bytes(b"nothing")
    listed = made.json("images")
    assert [image["name"] for image in listed] == ["aa"] * 3 + [made.name] * 3 + ["zz"] * 3
    problems = {(image["name"], image["generation"]): image.get("problem") for image in listed}
    assert [label for label, problem in problems.items() if problem] == [("zz", 2)]
    assert "manifest" in problems["zz", 2]
    line = command(made, "images").stdout.splitlines()[8]
    assert line.startswith("zz@2 ") and "manifest" in line


def test_images_of_no_store(freezepoint, directory):
    freezepoint.env["FREEZEPOINT_IMAGES"] = str(directory / "nowhere")
    assert freezepoint.call(freezepoint.command("images", "--json")).stdout == "[]\n"
    done = freezepoint.call(freezepoint.command("images"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert str(freezepoint.store) in said(command(freezepoint, "images"), 1)
    freezepoint.store.mkdir(0o700)
    assert freezepoint.images() == []


def test_images_by_the_environment(made):
    made.env["FREEZEPOINT_IMAGES"] = str(made.store)
    done = made.call(made.command("images", "--json"))
    assert [image["generation"] for image in json.loads(done.stdout)] == [1, 2, 3]
    done = made.call(made.command("inspect", made.name, "--json"))
    assert json.loads(done.stdout)["generation"] == 3


# -- inspect --


def test_inspect(made):
    image = made.inspect(f"{made.name}@2")
    assert image["name"] == made.name and image["generation"] == 2
    assert image["path"] == str(made.image_path(2)) and image["cwd"] == str(made.directory)
    assert image["hit"]["function"] == "rand_r" and image["hit"]["hit"] == 40
    assert image["hit"]["comm"] == "threads"
    assert image["points"] == [{"spec": "rand_r#10", "every": 30, "done": False}]
    assert image["command"] == [str(APPS / "threads"), "1", "100"]
    assert image["then"] == "continue" and image["tcp"] == "none"
    process, = image["process_list"]
    assert process["comm"] == "threads" and process["has_shim"] and process["rss_bytes"] > 0
    assert process["executable"] == str(APPS / "threads")
    assert image["hit"]["pid"] == process["pid"]
    assert [stream["fd"] for stream in image["streams"]] == [0, 1, 2]
    assert image["made_on"]["kernel"] == os.uname().release
    assert image["made_on"]["hostname"] == os.uname().nodename
    times = image["timings"]
    assert times["notified_ns"] < times["frozen_ns"] < times["dumped_ns"]
    assert 0 < times["pause_ms"] < 10000
    assert pathlib.Path(image["preload"]).name.endswith(".so")


def test_inspect_for_people(made):
    lines = command(made, "inspect", made.name).stdout.splitlines()
    fields = {line[:12].strip(): line[12:] for line in lines if line[:12].strip()}
    assert fields["image"] == f"{made.name}@3" and fields["path"] == str(made.image_path(3))
    assert fields["point"].startswith("rand_r#70, process ")
    assert fields["command"] == f"{APPS / 'threads'} 1 100"
    assert fields["directory"] == str(made.directory)
    assert fields["processes"] == "1, threads 2"
    assert fields["streams"].startswith("fd 0, pipe pipe:[")
    assert os.uname().release in fields["made on"]


@pytest.mark.parametrize("name", ["inspect", "verify"])
def test_names_of_images(made, name):
    for spec in (made.name, f"{made.name}@1", str(made.image_path(1)), f"store/{made.name}/2"):
        done = command(made, name, spec)
        assert done.returncode == 0, done.stderr
    for spec in ("another", f"{made.name}@4", f"{made.name[:-1]}"):
        assert f"there is no image '{spec}'" in said(command(made, name, spec), 1)
    assert "./nowhere" in said(command(made, name, "./nowhere"), 1)
    for spec in (f"{made.name}@", f"{made.name}@0", f"{made.name}@x", f"{made.name}@01", "@1"):
        assert f"'{spec}' is no IMAGE" in said(command(made, name, spec), 2)


def test_odd_bytes_in_what_an_image_tells(freezepoint, directory):
    """JSON stays JSON, and a terminal is not told to do anything."""
    program = directory / "odd\x1b[31m\n\u00e9"
    shutil.copy(APPS / "threads", program)
    argument = b'1"\\\t\xc3\xa9\xff\xc0\xe9('
    words = freezepoint.run_words("--at", "rand_r", "--", program, 1, 100)
    done = subprocess.run([*words, argument], stdin=subprocess.DEVNULL, capture_output=True,
                          cwd=directory, timeout=30)
    assert done.returncode == 0, done.stderr
    for words in (["images"], ["inspect", freezepoint.name]):
        words = freezepoint.command(*words, "--images", freezepoint.store)
        done = subprocess.run([*words, "--json"], capture_output=True, timeout=30)
        told = json.loads(done.stdout.decode())
        image = told[0] if isinstance(told, list) else told
        assert image["executable"] == str(program)
        if "command" in image:
            assert image["command"][1:] == ["1", "100", '1"\\\t\u00e9\ufffd\ufffd\ufffd(']
        done = subprocess.run(words, capture_output=True, timeout=30)
        assert done.returncode == 0 and "odd?[31m?" in done.stdout.decode(errors="replace")
        assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", done.stdout), done.stdout


# -- verify --


def test_verify(made):
    for generation in (1, 2, 3):
        line = said(command(made, "verify", f"{made.name}@{generation}"), 0)
        assert line == f"image {made.name}@{generation} is whole"
    pages = next((made.image_path(2) / "criu").glob("pages-*.img"))
    with open(pages, "r+b") as file:
        file.write(b"!")
    assert pages.name in said(command(made, "verify", f"{made.name}@2"), 1)
    assert command(made, "verify", f"{made.name}@1").returncode == 0
    assert command(made, "verify", f"{made.name}@3").returncode == 0


# -- rm --


def remove(tool, spec):
    return command(tool, "rm", spec)


def test_rm(made):
    assert latest(made) == "3"
    assert said(remove(made, f"{made.name}@3"), 0) == f"image {made.name}@3 is removed"
    assert made.generations() == [1, 2] and latest(made) == "2"
    assert made.inspect()["generation"] == 2
    assert remove(made, f"{made.name}@1").returncode == 0
    assert made.generations() == [2] and latest(made) == "2"
    done = made.restore(made.name)
    assert done.returncode == 0 and "each seen once" in done.stdout
    # Of what it makes nothing has the number of an image that was there.
    assert made.generations()[:2] == [2, 4]
    for generation in made.generations():
        assert remove(made, f"{made.name}@{generation}").returncode == 0
    assert made.images() == [] and list(made.store.iterdir()) == []


def test_rm_of_what_is_not_there(made):
    for spec in (f"{made.name}@4", "another@1"):
        assert re.search("there is no (such )?image", said(remove(made, spec), 1))
    for spec in (made.name, f"{made.name}@latest", f"{made.name}@0", "@1", "../x@1"):
        assert remove(made, spec).returncode in (1, 2)
    assert made.generations() == [1, 2, 3] and latest(made) == "3"


def test_rm_of_a_damaged_image(made):
    (made.image_path(3) / "manifest.pb").write_bytes(b"nothing")
    assert remove(made, f"{made.name}@3").returncode == 0
    assert made.generations() == [1, 2] and latest(made) == "2"


# -- doctor --


def test_doctor(freezepoint):
    done = freezepoint.call(freezepoint.command("doctor", "--json"))
    probes = json.loads(done.stdout)
    assert done.stderr == "" and len({probe["name"] for probe in probes}) == len(probes) > 10
    for probe in probes:
        assert set(probe) == {"name", "status", "needed", "found", "lost", "remedy"}
        assert probe["status"] in ("ok", "limited", "missing")
        assert probe["found"] and probe["lost"]
        assert (probe["remedy"] is None) == (probe["status"] == "ok")
    # Whoever runs this can run and restore.
    assert done.returncode == 0
    assert all(probe["status"] != "missing" for probe in probes if probe["needed"])
    done = freezepoint.call(freezepoint.command("doctor"))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines if line and line[0] != " "][:len(probes)] == [
        [probe["name"], probe["status"]] for probe in probes]
    assert lines[-1] == "Everything that `run` and `restore` need is here."


# -- help --


def text_of(*words):
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and done.stderr == ""
    return done.stdout


def options_of(name):
    return re.findall(r"^  (--[a-z-]+)", text_of("help", name), re.M)


def test_help():
    overview = text_of("help")
    assert overview == text_of("--help") == text_of("-h")
    assert re.findall(r"^  ([a-z]+) ", overview, re.M) == COMMANDS
    for name in COMMANDS:
        text = text_of("help", name)
        assert text == text_of(name, "--help") and text.startswith(f"usage: freezepoint {name} ")
        assert options_of(name)[-1] == "--help"
    assert re.fullmatch(r"freezepoint \d+\.\d+\.\d+\n", text_of("--version"))


def test_help_where_there_is_none():
    done = subprocess.run([PROGRAM], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and done.stdout == "" and done.stderr == text_of("help")
    for words in (["help", "bogus"], ["bogus"], ["help", "run", "restore"], ["--bogus"]):
        done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=20)
        said(done, 2)


# -- the manual page --


def manual():
    return text_of("help", "--man", TEMPLATE)


def test_manual_page_is_rendered_without_warnings(directory):
    page = directory / "freezepoint.1"
    page.write_text(manual())
    for words in (["man", "--warnings", "-l", page],
                  ["groff", "-man", "-ww", "-Tutf8", page], ["groff", "-man", "-ww", "-Tps", page]):
        done = subprocess.run(words, capture_output=True, timeout=30,
                              env=dict(os.environ, LC_ALL="C.UTF-8", MANWIDTH="80"))
        assert (done.returncode, done.stderr) == (0, b""), words
        assert len(done.stdout) > 4000


def test_manual_page_tells_of_every_command_and_option(directory):
    page = directory / "freezepoint.1"
    page.write_text(manual())
    done = subprocess.run(["man", "-l", page], capture_output=True, text=True, timeout=30,
                          env=dict(os.environ, LC_ALL="C.UTF-8", MANWIDTH="500"))
    text = re.sub(".\b", "", done.stdout)
    assert not re.search(r"@[A-Z_]+@", text)
    sections = re.split(r"^   freezepoint ([a-z]+)\b", text, flags=re.M)
    told = dict(zip(sections[1::2], sections[2::2]))
    assert list(told) == COMMANDS
    for name, section in told.items():
        for option in options_of(name):
            assert re.search(rf"^ +{option}\b", section, re.M) or (
                option == "--help" and option in sections[0]), (name, option)
        summary = re.search(rf"^  {name} +(.*)$", text_of("help"), re.M).group(1)
        assert summary in re.sub(r"\s+", " ", section)
    assert "--version" in sections[0]


def test_no_template(directory):
    done = subprocess.run([PROGRAM, "help", "--man", directory / "none"], capture_output=True,
                          text=True, timeout=20)
    assert str(directory / "none") in said(done, 1)


# -- completion --


# Control-T writes the line as it stands to the file `line`.
COMPLETING = r"""
. ./completion.bash
write_line() { printf '%s' "$READLINE_LINE" > line.new; mv line.new line; }
bind -x '"\C-t": write_line'
bind 'set bell-style none'
touch ready
"""


@pytest.fixture
def completed(made, directory):
    """What a key makes of a line, in an interactive bash."""
    (directory / "completion.bash").write_text(text_of("help", "--completion"))
    (directory / "rc").write_text(COMPLETING)
    (directory / "bin").mkdir()
    (directory / "bin" / "freezepoint").symlink_to(PROGRAM)
    environment = dict(made.env, FREEZEPOINT_IMAGES=str(made.store), TERM="dumb",
                       INPUTRC="/dev/null", PATH=f"{directory}/bin:{os.environ['PATH']}")
    shell = pexpect.spawn("/bin/bash", ["--noprofile", "--rcfile", "rc", "-i"], timeout=20,
                          cwd=str(directory), env=environment)
    wait_for((directory / "ready").exists, "the shell")

    def complete(typed, key="\t"):
        shell.send(f"\x15{typed}{key}\x14")
        wait_for((directory / "line").exists, f"the line made of '{typed}'")
        made_of_it = (directory / "line").read_text()
        (directory / "line").unlink()
        return made_of_it

    yield complete
    shell.close(force=True)


def offered(complete, typed):
    """All that could stand in the place of the last word."""
    line = complete(typed, "\x1b*")  # readline's insert-completions
    assert line.startswith(typed.rpartition(" ")[0])
    return line.split()[typed.count(" "):]


def test_completion_of_commands_and_options(completed):
    assert completed("freezepoint ins") == "freezepoint inspect "
    assert completed("freezepoint --v") == "freezepoint --version "
    assert sorted(offered(completed, "freezepoint ")) == sorted([*COMMANDS, "--help", "--version"])
    assert sorted(offered(completed, "freezepoint help ")) == sorted(
        [*COMMANDS, *options_of("help")])
    for name in COMMANDS:
        assert sorted(offered(completed, f"freezepoint {name} --")) == sorted(options_of(name))
    assert completed("freezepoint run --ev") == "freezepoint run --every "
    assert completed("freezepoint run --restore req") == "freezepoint run --restore require "
    assert sorted(offered(completed, "freezepoint run --restore ")) == ["auto", "never", "require"]
    assert sorted(offered(completed, "freezepoint restore --tcp ")) == ["close", "established"]
    assert completed("freezepoint restore --name ") == "freezepoint restore --name "


def test_completion_of_commands_to_run(completed, directory):
    assert completed("freezepoint run --at listen -- redis-ser") == (
        "freezepoint run --at listen -- redis-server ")
    (directory / "one-file-of-mine").touch()
    assert completed("freezepoint run -- cat one-f") == "freezepoint run -- cat one-file-of-mine "


def test_completion_of_images(completed, made, directory):
    name = made.name
    labels = [f"{name}@{generation}" for generation in (1, 2, 3)]
    for command_name in ("restore", "inspect", "verify"):
        assert sorted(offered(completed, f"freezepoint {command_name} {name[:3]}")) == [
            name, *labels]
    assert sorted(offered(completed, f"freezepoint rm {name[:3]}")) == labels
    for typed in (f"{name}@2", f"--images {made.store} {name}@2"):
        assert completed(f"freezepoint rm {typed}") == f"freezepoint rm {typed} "
    assert completed(f"freezepoint rm {name[:3]}") == f"freezepoint rm {name}@"
    other = directory / "other"
    other.mkdir(0o700)
    shutil.copytree(made.store / name, other / "elsewhere", symlinks=True)
    assert completed("freezepoint inspect --images oth") == "freezepoint inspect --images other/"
    assert sorted(offered(completed, "freezepoint inspect --images other e")) == [
        "elsewhere", *(f"elsewhere@{generation}" for generation in (1, 2, 3))]
    assert completed("freezepoint inspect ./oth") == "freezepoint inspect ./other/"


# -- make install --


def make(*words):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(["make", "--no-print-directory", *words], cwd=ROOT, env=environment,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def files_in(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*")
                  if not path.is_dir())


def has_private_criu():
    return re.search(r"^CRIU_PREFIX := \S", (ROOT / "build" / "setup.mk").read_text(), re.M)


def test_staged_installation(directory):
    make("install", f"DESTDIR={directory}", "PREFIX=/opt/somewhere")
    root = directory / "opt" / "somewhere"
    assert os.listdir(directory) == ["opt"] and os.listdir(directory / "opt") == ["somewhere"]
    files = files_in(root)
    ours = ["bin/freezepoint", "lib/freezepoint/abi.h",
            "share/bash-completion/completions/freezepoint", "share/man/man1/freezepoint.1"]
    assert [name for name in files if not name.startswith("lib/freezepoint/criu/")] == ours
    assert bool(has_private_criu()) == (len(files) > len(ours))
    assert (root / ours[0]).read_bytes() == PROGRAM.read_bytes()
    assert (root / ours[0]).stat().st_mode & 0o7777 == 0o755
    assert (root / ours[2]).read_text() == text_of("help", "--completion")
    assert (root / ours[3]).read_text() == manual()
    if has_private_criu():
        criu = (root / "lib/freezepoint/criu/usr/sbin/criu").read_bytes()
        assert b"/opt/somewhere/lib/freezepoint/criu/" in criu
        assert str(directory).encode() not in criu
    make("uninstall", f"DESTDIR={directory}", "PREFIX=/opt/somewhere")
    assert files_in(directory) == []


def test_installed_program(freezepoint, directory):
    """It runs from there, with the CRIU from there."""
    prefix = directory / "prefix"
    make("install", f"PREFIX={prefix}")
    program = prefix / "bin" / "freezepoint"
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

    def call(*words):
        return subprocess.run([program, *words], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, cwd="/", env=environment, timeout=60)

    done = call("doctor", "--json")
    assert done.returncode == 0, done.stdout
    criu = next(probe for probe in json.loads(done.stdout) if probe["name"] == "criu")
    assert criu["status"] == "ok"
    path = os.path.normpath(criu["found"].split()[0])
    assert not has_private_criu() or path == f"{prefix}/lib/freezepoint/criu/usr/sbin/criu"
    store = ["--images", freezepoint.store]
    done = call("run", "--name", freezepoint.name, *store, "--at", "times", "--then", "stop", "--",
                PYTHON, "-c", "import os; os.times(); print('went on')")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    done = call("restore", *store, freezepoint.name)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
    make("uninstall", f"PREFIX={prefix}")
    assert files_in(prefix) == []
