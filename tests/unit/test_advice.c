/* The ranking of points, from made-up runs. */
#include "trigger/advice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define MS 1000000ULL

enum { LISTEN, EPOLL, READ };

/* 100 ms of work until 150 ms, then idle but for a timer. */
static size_t make_samples(struct advice_sample *samples)
{
    size_t count = 0;
    for (uint64_t ms = 10; ms <= 500; ms += 10) {
        bool works = ms < 150;
        samples[count++] =
            (struct advice_sample){.time_ns = ms * MS,
                                   .cpu_ns = (works ? ms * 2 / 3 : 100 + (ms - 150) / 50) * MS,
                                   .blocked = !works && ms % 100 != 0};
    }
    return count;
}

static void start_up_ends_where_all_wait_for_long(void **state)
{
    (void)state;
    struct advice_sample samples[64];
    size_t count = make_samples(samples);
    struct advice_start_up found = advice_find_start_up(samples, count);
    assert_true(found.ended);
    assert_in_range(found.idle_ns, 150 * MS, 160 * MS);
    assert_in_range(found.cpu_ns, 100 * MS, 105 * MS);
}

static void waiting_for_a_disk_is_not_idle(void **state)
{
    (void)state;
    struct advice_sample samples[64];
    size_t count = make_samples(samples);
    for (size_t i = 0; i < count; i++)
        samples[i].blocked = false;
    assert_false(advice_find_start_up(samples, count).ended);
    assert_false(advice_find_start_up(samples, 0).ended);
}

static void a_short_rest_is_not_idle(void **state)
{
    (void)state;
    struct advice_sample samples[64];
    size_t count = make_samples(samples);
    assert_false(advice_find_start_up(samples, count - 20).ended);
}

static const struct advice_start_up start_up = {true, 150 * MS, 100 * MS};

static struct advice_hit hit(uint32_t function, uint64_t number, uint64_t time, uint64_t cpu)
{
    return (struct advice_hit){.function = function,
                               .pid = 1,
                               .tid = 1,
                               .number = number,
                               .time_ns = time * MS,
                               .cpu_ns = cpu * MS};
}

static size_t rank(const struct advice_hit *hits, size_t count, struct advice out[ADVICE_MAX])
{
    struct advice_run run = {.hits = hits, .hit_count = count};
    return advice_rank(&run, &start_up, out);
}

static void most_of_the_start_up_wins(void **state)
{
    (void)state;
    struct advice_hit hits[] = {hit(LISTEN, 1, 20, 12), hit(READ, 1, 10, 5),
                                hit(EPOLL, 1, 149, 99)};
    struct advice out[ADVICE_MAX];
    hits[2].waited_ns = 300 * MS;
    assert_int_equal(rank(hits, 3, out), 3);
    assert_int_equal(out[0].hit.function, EPOLL);
    assert_true(out[0].waits && out[0].share > 0.98 && out[0].score > 1);
    assert_int_equal(out[2].hit.function, READ);
}

static void a_loop_of_short_waits_is_waiting(void **state)
{
    (void)state;
    struct advice_hit hits[5];
    struct advice out[ADVICE_MAX];
    for (unsigned i = 0; i < 4; i++) {
        hits[i] = hit(EPOLL, i + 1, 145 + i * 100, 97 + i);
        hits[i].waited_ns = 95 * MS;
    }
    hits[4] = hit(READ, 1, 146, 98);
    assert_int_equal(rank(hits, 5, out), 2);
    assert_int_equal(out[0].hit.function, EPOLL);
    assert_true(out[0].waits && out[0].hit.number == 1);
    assert_false(out[1].waits);
}

static void open_connections_are_avoided(void **state)
{
    (void)state;
    struct advice_hit hits[] = {hit(LISTEN, 1, 20, 40), hit(EPOLL, 1, 149, 99)};
    struct advice out[ADVICE_MAX];
    hits[1].connections = 1;
    assert_int_equal(rank(hits, 2, out), 2);
    assert_int_equal(out[0].hit.function, LISTEN);
    assert_true(out[1].score < 0);
}

static void half_started_children_are_avoided(void **state)
{
    (void)state;
    const struct advice_hit hits[] = {hit(READ, 1, 50, 40), hit(READ, 2, 60, 45),
                                      hit(EPOLL, 1, 149, 99)};
    struct advice_process processes[] = {{.pid = 2, .forked_ns = 40 * MS, .executed_ns = 55 * MS},
                                         {.pid = 3, .forked_ns = 1 * MS},
                                         {.pid = 4, .forked_ns = 58 * MS, .ended_ns = 70 * MS}};
    struct advice_run run = {hits, 3, processes, 3, NULL, 0};
    struct advice out[ADVICE_MAX];
    assert_int_equal(advice_rank(&run, &start_up, out), 2);
    assert_int_equal(out[0].hit.function, EPOLL);
    assert_false(out[0].is_half_started); /* 3 is a worker */
    assert_int_equal(out[1].hit.number, 2);
    assert_true(out[1].is_half_started); /* 4 */
}

static void later_hits_and_other_processes_are_left_out(void **state)
{
    (void)state;
    struct advice_hit hits[] = {hit(EPOLL, 1, 30, 10), hit(EPOLL, 1, 149, 99),
                                hit(EPOLL, 2, 900, 101)};
    struct advice out[ADVICE_MAX];
    hits[1].pid = 2;
    assert_int_equal(rank(hits, 3, out), 1);
    assert_int_equal(out[0].hit.pid, 1);
}

static void threads_and_high_numbers_cost(void **state)
{
    (void)state;
    struct advice_hit hits[] = {hit(LISTEN, 1, 145, 95), hit(EPOLL, 1, 100, 60),
                                hit(EPOLL, 4, 149, 99)};
    struct advice out[ADVICE_MAX];
    hits[1].tid = 2;
    assert_int_equal(rank(hits, 3, out), 2);
    assert_int_equal(out[0].hit.function, LISTEN);
    assert_int_equal(out[1].threads, 2);
}

static void nothing_is_advised_without_an_end(void **state)
{
    (void)state;
    const struct advice_hit hits[] = {hit(LISTEN, 1, 145, 95)};
    struct advice_run run = {.hits = hits, .hit_count = 1};
    struct advice out[ADVICE_MAX];
    assert_int_equal(advice_rank(&run, &(struct advice_start_up){.cpu_ns = 5}, out), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_up_ends_where_all_wait_for_long),
        cmocka_unit_test(waiting_for_a_disk_is_not_idle),
        cmocka_unit_test(a_short_rest_is_not_idle),
        cmocka_unit_test(most_of_the_start_up_wins),
        cmocka_unit_test(a_loop_of_short_waits_is_waiting),
        cmocka_unit_test(open_connections_are_avoided),
        cmocka_unit_test(half_started_children_are_avoided),
        cmocka_unit_test(later_hits_and_other_processes_are_left_out),
        cmocka_unit_test(threads_and_high_numbers_cost),
        cmocka_unit_test(nothing_is_advised_without_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
