#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/probe.h"
#include "lib/probe_list.h"
#include "lib/proc.h"

static void answer_ok(struct probe_result *result)
{
    probe_set_ok(result, "found %d", 1);
}

static void answer_limited(struct probe_result *result)
{
    probe_set(result, PROBE_LIMITED, "turn it on", "half of it");
}

static void answer_failed(struct probe_result *result)
{
    struct err err;
    err_text(&err, ENOENT, "no thing; make one; quickly");
    probe_set_failed(result, &err, NULL);
}

static void die(struct probe_result *result)
{
    (void)result;
    raise(SIGKILL);
}

static void hang(struct probe_result *result)
{
    (void)result;
    probe_child_start(); /* must not survive either */
    for (;;)
        pause();
}

static void assert_no_children(void)
{
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

static struct probe_result run(void (*perform)(struct probe_result *), int timeout_ms)
{
    const struct probe probe = {"test", false, timeout_ms, "nothing", perform};
    struct probe_result result;
    memset(&result, 0x5a, sizeof(result));
    probe_run(&probe, &result);
    assert_no_children();
    return result;
}

static void test_result_arrives(void **state)
{
    (void)state;
    struct probe_result result = run(answer_ok, 5000);
    assert_int_equal(result.status, PROBE_OK);
    assert_string_equal(result.found, "found 1");
    assert_string_equal(result.remedy, "");
    result = run(answer_limited, 5000);
    assert_int_equal(result.status, PROBE_LIMITED);
    assert_string_equal(result.found, "half of it");
    assert_string_equal(result.remedy, "turn it on");
}

static void test_error_is_split_from_its_remedy(void **state)
{
    (void)state;
    struct probe_result result = run(answer_failed, 5000);
    assert_int_equal(result.status, PROBE_MISSING);
    assert_string_equal(result.found, "no thing");
    assert_string_equal(result.remedy, "make one; quickly");
}

static void test_dead_probe_is_missing(void **state)
{
    (void)state;
    struct probe_result result = run(die, 5000);
    assert_int_equal(result.status, PROBE_MISSING);
    assert_string_equal(result.found, "the probe was killed");
}

static void test_hanging_probe_is_ended_with_its_children(void **state)
{
    (void)state;
    uint64_t start_ns = proc_monotonic_ns();
    struct probe_result result = run(hang, 300);
    uint64_t took_ms = (proc_monotonic_ns() - start_ns) / 1000000;
    assert_int_equal(result.status, PROBE_MISSING);
    assert_string_equal(result.found, "no answer within 300 ms");
    assert_true(took_ms >= 300 && took_ms < 5000);
}

static void test_child_wait(void **state)
{
    (void)state;
    pid_t child = probe_child_start();
    assert_true(child > 0);
    assert_int_equal(probe_child_wait(&child, 50), -ETIMEDOUT);
    kill(child, SIGTERM);
    assert_int_equal(probe_child_wait(&child, 5000), 128 + SIGTERM);
    assert_int_equal(child, 0);
    probe_child_end(&child);
    assert_no_children();
}

/* CRIU's own are for the live tests: a sanitizer's shadow memory cannot be dumped. */
static void test_every_probe_answers(void **state)
{
    (void)state;
    for (const struct probe *probe = probes; probe->name; probe++) {
        assert_true(*probe->lost && probe->timeout_ms > 0);
        if (probe->perform == probe_criu || probe->perform == probe_tcp_established)
            continue;
        struct probe_result result;
        probe_run(probe, &result);
        assert_true(result.status <= PROBE_MISSING);
        assert_true(result.found[0]);
        assert_int_equal(result.status == PROBE_OK, result.remedy[0] == '\0');
        assert_null(strstr(result.found, "the probe was killed"));
        assert_no_children();
    }
}

static void test_other_user_dump_agrees_with_its_probe(void **state)
{
    (void)state;
    struct probe_result result = run(probe_other_user, 5000);
    assert_int_equal(probe_other_user_dump() == 0, result.status == PROBE_OK);
    assert_no_children();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_result_arrives),
        cmocka_unit_test(test_error_is_split_from_its_remedy),
        cmocka_unit_test(test_dead_probe_is_missing),
        cmocka_unit_test(test_hanging_probe_is_ended_with_its_children),
        cmocka_unit_test(test_child_wait),
        cmocka_unit_test(test_every_probe_answers),
        cmocka_unit_test(test_other_user_dump_agrees_with_its_probe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
