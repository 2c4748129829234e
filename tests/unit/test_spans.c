/* A thread's runs and rests, of which there may be too many. */
#include "trigger/spans.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "bpf/points.h"

#define MS 1000000ULL

static void add(struct spans *spans, uint64_t from_ms, uint64_t to_ms, uint32_t call)
{
    const struct span span = {.from_ns = from_ms * MS,
                              .to_ns = to_ms * MS,
                              .cpu_ns = (to_ms - from_ms) * MS / 2,
                              .rest = POINTS_REST_CALL,
                              .call = call};
    assert_int_equal(spans_add(spans, &span), 0);
}

static void few_are_kept_as_they_are(void **state)
{
    (void)state;
    struct spans spans = {0};
    for (uint64_t i = 0; i < SPANS_MAX; i++)
        add(&spans, i * 3, i * 3 + 1, (uint32_t)i);
    assert_int_equal(spans.count, SPANS_MAX);
    assert_int_equal(spans.finest_ns, 0);
    for (uint64_t i = 0; i < SPANS_MAX; i++) {
        assert_int_equal(spans.list[i].from_ns, i * 3 * MS);
        assert_int_equal(spans.list[i].call, i);
    }
    spans_release(&spans);
    assert_null(spans.list);
}

/* Rests of 2 ms, and each tenth of 200 ms: those are the ones to stay. */
static void of_too_many_the_short_rests_go(void **state)
{
    (void)state;
    struct spans spans = {0};
    uint64_t now = 0, cpu = 0, longs = 0;
    for (uint32_t i = 0; i < SPANS_MAX * 4; i++) {
        bool is_long = i % 10 == 9;
        add(&spans, now, now + 2, is_long ? 7 : 1);
        cpu += MS;
        longs += is_long;
        now += is_long ? 202 : 4;
    }
    assert_true(spans.count <= SPANS_MAX);
    assert_true(spans.finest_ns > 2 * MS && spans.finest_ns <= 200 * MS);
    uint64_t kept_cpu = 0, kept_longs = 0;
    for (size_t i = 0; i < spans.count; i++) {
        kept_cpu += spans.list[i].cpu_ns;
        kept_longs += spans.list[i].call == 7;
        if (i)
            assert_true(spans.list[i].from_ns > spans.list[i - 1].to_ns);
    }
    assert_int_equal(kept_cpu, cpu);
    assert_int_equal(kept_longs, longs);
    assert_int_equal(spans.list[0].from_ns, 0);
    spans_release(&spans);
}

/* Even where all rests are long there is an end of it. */
static void the_number_is_bounded(void **state)
{
    (void)state;
    struct spans spans = {0};
    for (uint64_t i = 0; i < SPANS_MAX * 20; i++)
        add(&spans, i * 100000, i * 100000 + 1, 0);
    assert_true(spans.count <= SPANS_MAX && spans.count > SPANS_MAX / 4);
    spans_release(&spans);
}

static void what_is_not_later_is_dropped(void **state)
{
    (void)state;
    struct spans spans = {0};
    add(&spans, 10, 20, 1);
    add(&spans, 15, 30, 2);
    const struct span backwards = {.from_ns = 50 * MS, .to_ns = 40 * MS};
    assert_int_equal(spans_add(&spans, &backwards), 0);
    assert_int_equal(spans.count, 1);
    add(&spans, 20, 30, 3);
    assert_int_equal(spans.count, 2);
    spans_release(&spans);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(few_are_kept_as_they_are),
        cmocka_unit_test(of_too_many_the_short_rests_go),
        cmocka_unit_test(the_number_is_bounded),
        cmocka_unit_test(what_is_not_later_is_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
