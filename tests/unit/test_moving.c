/* The records of a migration: written by one, whole, and found again by whoever comes
 * after a death.  In namespaces of the test's own. */
#include "lib/moving.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "lib/job.h"
#include "lib/stream.h"
#include "tests/unit/netns.h"

#define ARRIVALS JOB_RUNTIME_ROOT "/.arrivals"
#define RACERS   24

static struct moving made(const char *addresses, const char *via)
{
    struct moving moving = {.id = ""};
    struct err err;
    assert_int_equal(moving_make_id(moving.id, &err), 0);
    snprintf(moving.addresses, sizeof(moving.addresses), "%s", addresses);
    snprintf(moving.via, sizeof(moving.via), "%s", via);
    return moving;
}

static void numbers_are_valid_and_differ(void **state)
{
    (void)state;
    struct moving one = made("", ""), two = made("", "");
    assert_true(moving_id_is_valid(one.id));
    assert_string_not_equal(one.id, two.id);
    static const char *const odd[] = {"",
                                      "0123",
                                      "../../../../../../../etc/passwd.",
                                      "0123456789ABCDEF0123456789ABCDEF",
                                      "0123456789abcdef0123456789abcdef0",
                                      "0123456789abcdef0123456789abcde/"};
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        struct err err;
        assert_false(moving_id_is_valid(odd[i]));
        assert_int_equal(arrival_decide(odd[i], OUTCOME_RAN, &err), -EBADMSG);
    }
}

/* Half of them want it to run and half not; all hear the same. */
static void one_alone_decides(void **state)
{
    (void)state;
    int wins[3] = {0};
    for (int round = 0; round < 20; round++) {
        struct moving moving = made("", "");
        int gate[2], outcomes[3] = {0};
        pid_t pids[RACERS];
        char byte;
        assert_int_equal(pipe2(gate, O_CLOEXEC), 0);
        for (int i = 0; i < RACERS; i++) {
            pids[i] = fork();
            if (pids[i] == 0) {
                struct err err;
                close(gate[1]);
                if (read(gate[0], &byte, 1) != 0)
                    _exit(9);
                int outcome =
                    arrival_decide(moving.id, (i + round) % 2 ? OUTCOME_RAN : OUTCOME_NEVER, &err);
                _exit(outcome < 0 ? 9 : outcome);
            }
        }
        close(gate[1]);
        for (int i = 0; i < RACERS; i++) {
            int status;
            assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
            assert_true(WIFEXITED(status));
            assert_in_range(WEXITSTATUS(status), OUTCOME_RAN, OUTCOME_NEVER);
            outcomes[WEXITSTATUS(status)]++;
        }
        close(gate[0]);
        assert_true(outcomes[OUTCOME_RAN] == RACERS || outcomes[OUTCOME_NEVER] == RACERS);
        wins[outcomes[OUTCOME_RAN] ? OUTCOME_RAN : OUTCOME_NEVER]++;
        struct err err;
        assert_true(arrival_is_decided(moving.id));
        assert_int_equal(arrival_decide(moving.id, OUTCOME_NEVER, &err),
                         outcomes[OUTCOME_RAN] ? OUTCOME_RAN : OUTCOME_NEVER);
    }
    print_message("ran %d times, never %d times\n", wins[OUTCOME_RAN], wins[OUTCOME_NEVER]);
}

static void make_file(const char *path, const char *text, int hours_ago)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    struct timespec times[2] = {{.tv_sec = time(NULL) - hours_ago * 3600}};
    times[1] = times[0];
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
}

static void old_decisions_are_forgotten(void **state)
{
    (void)state;
    static const char old[] = ARRIVALS "/00000000000000000000000000000001",
                      half[] = ARRIVALS "/.00000000000000000000000000000001.77",
                      recent[] = ARRIVALS "/00000000000000000000000000000002",
                      ran[] = ARRIVALS "/00000000000000000000000000000003",
                      long_ran[] = ARRIVALS "/00000000000000000000000000000004";
    struct moving moving = made("", "");
    struct err err;
    assert_int_equal(arrival_decide(moving.id, OUTCOME_RAN, &err), OUTCOME_RAN);
    make_file(old, "never\n", 25);
    make_file(half, "nev", 25);
    make_file(recent, "", 23);
    /* The source may ask after days, but not after months. */
    make_file(ran, "ran\n", 250);
    make_file(long_ran, "ran\n", 61 * 24);
    struct moving next = made("", "");
    assert_false(arrival_is_decided(next.id));
    assert_int_equal(arrival_decide(next.id, OUTCOME_NEVER, &err), OUTCOME_NEVER);
    assert_int_equal(access(old, F_OK), -1);
    assert_int_equal(access(half, F_OK), -1);
    assert_int_equal(access(recent, F_OK), 0);
    assert_int_equal(unlink(ran), 0);
    assert_int_equal(access(long_ran, F_OK), -1);
    assert_int_equal(arrival_decide(moving.id, OUTCOME_NEVER, &err), OUTCOME_RAN);
    /* What somebody else wrote there is no decision. */
    assert_int_equal(arrival_decide("00000000000000000000000000000002", OUTCOME_RAN, &err),
                     -EBADMSG);
    assert_int_equal(unlink(recent), 0);
}

static int job(char path[64])
{
    snprintf(path, 64, JOB_RUNTIME_ROOT "/job");
    return mkdir(path, 0700);
}

static bool has(const char *runtime_path, const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", runtime_path, name);
    return access(path, F_OK) == 0;
}

static char seen[MOVING_ADDRESSES_MAX];

static int see(const struct moved_address *address, struct err *err)
{
    size_t length = strlen(seen);
    (void)err;
    snprintf(seen + length, sizeof(seen) - length, "%u@%s ", address->prefix, address->device);
    return address->prefix == 24 ? err_text(err, EIO, "no") : 0;
}

static void records_come_back_as_they_were(void **state)
{
    (void)state;
    struct err err;
    struct moving moving = made("", "if true\nthen ssh b 'freezepoint receive'\nfi\n"), back;
    char text[sizeof(struct moving) + 16], longest[MOVING_VIA_MAX];
    assert_int_equal(moving_add_address(&moving, "10.0.0.5/24@eth0", &err), 0);
    assert_int_equal(moving_add_address(&moving, "fd00::5/64@eth1", &err), 0);
    snprintf(text, sizeof(text), "%s\n%s\n%s", moving.id, moving.addresses, moving.via);
    assert_int_equal(moving_parse(text, &back, &err), 0);
    assert_memory_equal(&back, &moving, sizeof(back));
    seen[0] = '\0';
    assert_int_equal(moving_addresses(&back, see, &err), -EIO);
    assert_string_equal(seen, "24@eth0 64@eth1 ");
    memset(longest, 'v', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    snprintf(text, sizeof(text), "%s\n\n%s", moving.id, longest);
    assert_int_equal(moving_parse(text, &back, &err), 0);
    snprintf(text, sizeof(text), "%s\n\n%sv", moving.id, longest);
    assert_int_equal(moving_parse(text, &back, &err), -EBADMSG);
    snprintf(text, sizeof(text), "%s\n%s", moving.id, moving.addresses);
    assert_int_equal(moving_parse(text, &back, &err), -EBADMSG);
    snprintf(text, sizeof(text), "x%s\n\n", moving.id + 1);
    assert_int_equal(moving_parse(text, &back, &err), -EBADMSG);
    int error = 0;
    for (int i = 0; i < 100 && !error; i++)
        error = moving_add_address(&moving, "10.0.0.5/24@eth0", &err);
    assert_true(error < 0);
    assert_true(strlen(moving.addresses) < sizeof(moving.addresses));
    assert_int_equal(moving.addresses[strlen(moving.addresses) - 1], '0');
}

/* As `freezepoint receive` answers an enquiry; a script, since it is run by sh. */
static void write_answer(const char *path, Freezepoint__Stream__Outcome outcome)
{
    StreamMessage message = FREEZEPOINT__STREAM__MESSAGE__INIT;
    uint8_t *bytes = NULL;
    size_t size = 0;
    struct err err;
    message.kind = FREEZEPOINT__STREAM__KIND__OUTCOME;
    message.outcome = outcome;
    assert_int_equal(stream_frame(&message, NULL, 0, &bytes, &size, &err), 0);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(fd_write_all(fd, bytes, size), (ssize_t)size);
    close(fd);
    free(bytes);
}

static void asks_the_other_side(void **state)
{
    (void)state;
    static const char path[] = JOB_RUNTIME_ROOT "/answer";
    struct err err;
    struct moving moving = made("", "cat " JOB_RUNTIME_ROOT "/answer");
    write_answer(path, FREEZEPOINT__STREAM__OUTCOME__OUTCOME_RAN);
    assert_int_equal(moving_ask(&moving, &err), OUTCOME_RAN);
    write_answer(path, FREEZEPOINT__STREAM__OUTCOME__OUTCOME_NEVER);
    assert_int_equal(moving_ask(&moving, &err), OUTCOME_NEVER);
    write_answer(path, FREEZEPOINT__STREAM__OUTCOME__OUTCOME_UNKNOWN);
    assert_int_equal(moving_ask(&moving, &err), -EPROTO);
    snprintf(moving.via, sizeof(moving.via), "echo hello");
    assert_int_equal(moving_ask(&moving, &err), -EBADMSG);
    snprintf(moving.via, sizeof(moving.via), "exit 3");
    assert_int_equal(moving_ask(&moving, &err), -EPIPE);
    unlink(path);
}

static int is_here(const char *text)
{
    struct moved_address address;
    struct err err;
    assert_int_equal(address_parse(text, &address, &err), 0);
    return address_is_here(&address, &err);
}

static void an_orphan_that_has_not_moved_may_run(void **state)
{
    (void)state;
    char path[64];
    struct err err;
    assert_int_equal(job(path), 0);
    assert_int_equal(moving_settle_orphan(path, &err), OUTCOME_RAN);
    rmdir(path);
}

static void an_orphan_that_was_arriving_never_runs_unless_that_was_decided(void **state)
{
    (void)state;
    char path[64];
    struct err err;
    static const char address[] = "10.55.0.5/24@v0";
    assert_int_equal(job(path), 0);
    struct moving moving = made(address, "");
    assert_int_equal(system("ip address add 10.55.0.5/24 dev v0 valid_lft 120 preferred_lft 120"),
                     0);
    assert_int_equal(arrival_begin(path, &moving, &err), 0);
    assert_true(has(path, "arriving"));
    assert_int_equal(moving_settle_orphan(path, &err), OUTCOME_NEVER);
    assert_false(has(path, "arriving"));
    assert_int_equal(is_here(address), 0);
    assert_int_equal(arrival_decide(moving.id, OUTCOME_RAN, &err), OUTCOME_NEVER);
    moving = made(address, "");
    assert_int_equal(system("ip address add 10.55.0.5/24 dev v0 valid_lft 120 preferred_lft 120"),
                     0);
    assert_int_equal(arrival_begin(path, &moving, &err), 0);
    assert_int_equal(arrival_decide(moving.id, OUTCOME_RAN, &err), OUTCOME_RAN);
    assert_int_equal(moving_settle_orphan(path, &err), OUTCOME_RAN);
    assert_false(has(path, "arriving"));
    assert_int_equal(system("ip -o address show dev v0 | grep 10.55.0.5 | grep -q forever"), 0);
    assert_int_equal(system("ip address del 10.55.0.5/24 dev v0"), 0);
    rmdir(path);
}

static void an_orphan_that_was_leaving_asks(void **state)
{
    (void)state;
    static const char answer[] = JOB_RUNTIME_ROOT "/answer", address[] = "10.55.0.5/24@v0";
    char path[64];
    struct err err;
    assert_int_equal(job(path), 0);
    struct moving moving = made(address, "cat " JOB_RUNTIME_ROOT "/answer");
    assert_int_equal(system("ip address add 10.55.0.5/24 dev v0"), 0);
    assert_int_equal(moving_begin(path, &moving, &err), 0);
    assert_true(moving_settle_orphan(path, &err) < 0);
    assert_true(has(path, "moving"));
    assert_int_equal(is_here(address), 1);
    write_answer(answer, FREEZEPOINT__STREAM__OUTCOME__OUTCOME_NEVER);
    assert_int_equal(moving_settle_orphan(path, &err), OUTCOME_RAN);
    assert_false(has(path, "moving"));
    assert_int_equal(is_here(address), 1);
    assert_int_equal(moving_begin(path, &moving, &err), 0);
    write_answer(answer, FREEZEPOINT__STREAM__OUTCOME__OUTCOME_RAN);
    assert_int_equal(moving_settle_orphan(path, &err), OUTCOME_NEVER);
    assert_false(has(path, "moving"));
    assert_int_equal(is_here(address), 0);
    unlink(answer);
    rmdir(path);
}

static void a_damaged_record_is_no_leave_to_run(void **state)
{
    (void)state;
    char path[64], file[128];
    struct err err;
    assert_int_equal(job(path), 0);
    snprintf(file, sizeof(file), "%s/moving", path);
    make_file(file, "never\n", 0);
    assert_int_equal(moving_settle_orphan(path, &err), -EBADMSG);
    assert_non_null(strstr(err.text, file));
    unlink(file);
    rmdir(path);
}

/* Nothing of it is seen by anybody else. */
static bool have_namespaces(void)
{
    return netns_enter() && netns_add_pair() && unshare(CLONE_NEWNS) == 0 &&
           mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", "/run", "tmpfs", 0, "mode=755") == 0 && mkdir(JOB_RUNTIME_ROOT, 0755) == 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_valid_and_differ),
        cmocka_unit_test(one_alone_decides),
        cmocka_unit_test(old_decisions_are_forgotten),
        cmocka_unit_test(records_come_back_as_they_were),
        cmocka_unit_test(asks_the_other_side),
        cmocka_unit_test(an_orphan_that_has_not_moved_may_run),
        cmocka_unit_test(an_orphan_that_was_arriving_never_runs_unless_that_was_decided),
        cmocka_unit_test(an_orphan_that_was_leaving_asks),
        cmocka_unit_test(a_damaged_record_is_no_leave_to_run),
    };
    signal(SIGPIPE, SIG_IGN);
    if (!have_namespaces())
        return 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
