"""kill -9 of each of a job's processes in each phase of a checkpoint and a restore."""

import signal

import pytest

from harness import comm_of, wait_for
from steady import END_STATUS, kill, wake

DUMP_PHASES = ["dump:armed", "dump:notified", "dump:frozen", "dump:held", "dump:dumping",
               "dump:written", "dump:dumped", "commit:manifest", "commit:rename", "commit:renamed"]
DUMPED = DUMP_PHASES[DUMP_PHASES.index("dump:dumped"):]
RESTORE_PHASES = ["restore:placed", "restore:init-started", "restore:criu-running",
                  "restore:pre-resume", "restore:resumed"]
SIGKILL_STATUS = 128 + signal.SIGKILL


def stop_at(steady, phase):
    """A job with an image, whose next checkpoint has come so far."""
    steady.run()
    steady.running.wait_for_message("checkpoint .*@1 ")
    steady.end()
    steady.run(fault=f"{phase}=stop", quiet=False)
    steady.wait_until_stopped()


@pytest.mark.parametrize("phase", DUMP_PHASES)
def test_supervisor_during_a_checkpoint(steady, phase, note_attempt):
    stop_at(steady, phase)
    kill(steady.running.pid)
    steady.running.wait()
    note_attempt((phase, "supervisor"))

    steady.assert_well()
    refused = steady.tool.run("--restore", "never", *steady.words())
    assert refused.returncode == 125 and "is running" in refused.stderr
    last = steady.ticks()[-1]
    steady.assert_progress()
    assert steady.longest_call_ms(last) < 1000
    steady.end()
    assert steady.output_ticks() == steady.ticks()[-len(steady.output_ticks()):]
    steady.assert_images(*([1, 2] if phase == "commit:renamed" else [1]))


@pytest.mark.parametrize("phase", DUMP_PHASES)
def test_criu_during_a_checkpoint(steady, phase, note_attempt):
    stop_at(steady, phase)
    worker = steady.worker()
    if worker:
        kill(worker)
        note_attempt((phase, "CRIU"))
    wake(steady.running.pid)

    made = steady.running.wait_for_message("checkpoint .*(@2|failed)").group(1) == "@2"
    assert made or "CRIU died" in steady.running.err
    # Before the dump another worker takes its place.
    assert made == (phase in ("dump:armed", "dump:notified", *DUMPED)) or phase == "dump:dumping"
    steady.assert_well()
    assert steady.end() == END_STATUS
    steady.assert_images(*([1, 2] if made else [1]))


@pytest.mark.parametrize("phase", DUMP_PHASES)
def test_app_during_a_checkpoint(steady, phase, note_attempt):
    stop_at(steady, phase)
    kill(steady.app())
    note_attempt((phase, "app"))
    wake(steady.running.pid)

    assert steady.running.wait() == SIGKILL_STATUS
    made = "@2" in steady.running.err
    assert made or "checkpoint at" in steady.running.err or "no image" in steady.running.err
    assert made == (phase in DUMPED) or phase in ("dump:dumping", "dump:written")
    steady.assert_images(*([1, 2] if made else [1]))


@pytest.mark.parametrize("phase", DUMP_PHASES)
def test_keeper_during_a_checkpoint(steady, phase, note_attempt):
    """A program that does not use its streams survives the one that relays them."""
    steady.make_image()
    steady.run(fault=f"{phase}=stop", quiet=True)
    steady.wait_until_stopped()
    kill(steady.keeper())
    note_attempt((phase, "keeper"))
    wake(steady.running.pid)

    steady.running.wait_for_message("checkpoint .*@2 ")
    steady.running.wait_for_message("relays the program's streams has died")
    steady.assert_well(output=False)
    assert steady.end() == END_STATUS
    steady.assert_images(1, 2)


def test_keeper_of_a_program_that_writes(steady):
    """It finds its reader gone, as with any other."""
    steady.run()
    steady.running.wait_for_message("checkpoint .*@1 ")
    kill(steady.keeper())
    assert steady.running.wait() == 128 + signal.SIGPIPE
    assert "relays the program's streams has died" in steady.running.err
    steady.assert_images(1)


def test_supervisor_while_the_program_runs(steady):
    steady.run(at="rand_r#1000000")
    wait_for(lambda: len(steady.ticks()) > 3, "the program to run")
    kill(steady.running.pid)
    steady.running.wait()
    steady.assert_well()
    steady.end()
    steady.assert_images()


@pytest.mark.parametrize("phase", ["start:claimed", "start:keeper", "start:launched",
                                   "end:program", "end:keeper"])
def test_supervisor_at_start_and_end(steady, phase):
    """The name can be used again, and that run leaves nothing behind."""
    steady.stop_file.touch()
    steady.run(fault=f"{phase}=kill")
    assert steady.running.wait() == -signal.SIGKILL
    wait_for(lambda: not steady.tool.pids(), "the program to end")
    wait_for(lambda: not steady.keeper(), "the keeper to end")

    def used_again():
        again = steady.run()
        return again.wait() == END_STATUS
    wait_for(used_again, "the name to be free", interval=0.2)


@pytest.mark.parametrize("victim", ["supervisor", "CRIU", "keeper", "init", "app"])
@pytest.mark.parametrize("phase", RESTORE_PHASES)
def test_restore(steady, phase, victim, note_attempt):
    steady.make_image()
    steady.restore(fault=f"{phase}=stop")
    steady.wait_until_stopped()
    pid = {"supervisor": lambda: steady.running.pid, "CRIU": steady.worker,
           "keeper": steady.keeper, "init": steady.init, "app": steady.app}[victim]()
    if not pid:  # Not yet, or no longer, there.
        wake(steady.running.pid)
        steady.assert_well()
        assert steady.end() == END_STATUS
        return
    kill(pid)
    note_attempt((phase, victim))
    if victim == "supervisor":
        steady.running.wait()
    else:
        wake(steady.running.pid)
        if (phase, victim) == ("restore:resumed", "CRIU"):
            steady.assert_well()
            assert steady.end() == END_STATUS
        else:
            status = steady.running.wait()
            expected = SIGKILL_STATUS if phase == "restore:resumed" and victim != "keeper" else 125
            assert status == expected, steady.running.err
            assert status != 125 or len(steady.running.err.splitlines()) == 1
    wait_for(lambda: not steady.tool.group().exists(), "the group to go")
    steady.assert_images(1)


@pytest.mark.parametrize("victim", ["CRIU", "keeper", "init"])
def test_warm_start_becomes_a_cold_one(steady, victim):
    steady.run_warm()
    steady.running.wait_for_message("checkpoint .*@1 ")
    assert steady.end() == END_STATUS
    steady.forget_progress()
    steady.run_warm(fault="restore:pre-resume=stop")
    steady.wait_until_stopped()
    kill({"CRIU": steady.worker, "keeper": steady.keeper, "init": steady.init}[victim]())
    wake(steady.running.pid)
    steady.running.wait_for_message("starting cold")
    steady.running.wait_for_message("checkpoint .*@2 ")
    steady.assert_well()
    # Without CRIU the restored program is on its own for a moment, until its group is
    # killed; here for as long as the supervisor stands still.
    assert 1 in steady.output_ticks() if victim == "CRIU" else steady.output_ticks()[0] == 1
    assert steady.end() == END_STATUS
    steady.assert_images(1, 2)


def test_restored_program_outlives_its_supervisor(steady):
    """Killed before the program has armed itself anew: its calls must not wait."""
    steady.make_image()
    steady.restore(fault="restore:running=stop")
    steady.wait_until_stopped()
    kill(steady.running.pid)
    steady.running.wait()
    steady.assert_well()
    assert steady.longest_call_ms(0) < 1000
    steady.end()
    steady.assert_images(1)


def test_init_of_a_running_program(steady):
    steady.make_image()
    steady.restore()
    steady.running.wait_for_message("restored")
    wait_for(steady.ticks, "the program to run on")
    kill(steady.init())
    assert steady.running.wait() == SIGKILL_STATUS
    steady.assert_images(1)


@pytest.mark.parametrize("phase", ["dump:written", "commit:renamed"])
def test_supervisor_before_a_stop(steady, phase):
    """--then stop: where the image could not be finished the program lives."""
    steady.make_image()
    steady.run("--then", "stop", fault=f"{phase}=stop")
    steady.wait_until_stopped()
    kill(steady.running.pid)
    steady.running.wait()
    steady.assert_well()
    steady.end()
    steady.assert_images(*([1, 2] if phase == "commit:renamed" else [1]))


def test_comm_names_are_as_assumed(steady):
    steady.make_image()
    steady.restore(fault="restore:init-started=stop")
    steady.wait_until_stopped()
    assert comm_of(steady.init()).startswith("freezepoint-in")
    assert steady.worker() and steady.keeper()
    wake(steady.running.pid)
    steady.assert_well()
    assert steady.end() == END_STATUS
