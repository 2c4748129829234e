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

static struct advice_start_up find_start_up(const struct advice_sample *samples, size_t count)
{
    return advice_find_start_up(&(struct advice_run){.samples = samples, .sample_count = count});
}

static void start_up_ends_where_all_wait_for_long(void **state)
{
    (void)state;
    struct advice_sample samples[64];
    size_t count = make_samples(samples);
    struct advice_start_up found = find_start_up(samples, count);
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
    assert_false(find_start_up(samples, count).ended);
    assert_false(find_start_up(samples, 0).ended);
}

static void a_short_rest_is_not_idle(void **state)
{
    (void)state;
    struct advice_sample samples[64];
    size_t count = make_samples(samples);
    assert_false(find_start_up(samples, count - 20).ended);
}

static const struct advice_start_up start_up = {
    .ended = true, .idle_ns = 150 * MS, .cpu_ns = 100 * MS};

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
        hits[i] = hit(EPOLL, i + 1, 145 + i * 100, 99);
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
    const struct advice_hit hits[] = {hit(READ, 1, 50, 40), hit(READ, 2, 60, 60),
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
    struct advice_hit hits[] = {hit(LISTEN, 1, 145, 99), hit(EPOLL, 1, 140, 60),
                                hit(EPOLL, 2, 149, 100)};
    struct advice out[ADVICE_MAX];
    hits[1].tid = 2;
    assert_int_equal(rank(hits, 3, out), 2);
    assert_int_equal(out[0].hit.function, LISTEN);
    assert_int_equal(out[1].threads, 2);
    hits[1].time_ns = 50 * MS; /* long before */
    assert_int_equal(rank(hits, 3, out), 2);
    assert_int_equal(out[0].hit.function, EPOLL);
    assert_int_equal(out[0].threads, 1);
}

static void nothing_is_advised_without_an_end(void **state)
{
    (void)state;
    const struct advice_hit hits[] = {hit(LISTEN, 1, 145, 95)};
    struct advice_run run = {.hits = hits, .hit_count = 1};
    struct advice out[ADVICE_MAX];
    assert_int_equal(advice_rank(&run, &(struct advice_start_up){.cpu_ns = 5}, out), 0);
}

/* Works for so long at the end of each second: in ms, 0 last. */
static size_t make_seconds(struct advice_sample *samples, const unsigned *works)
{
    size_t count = 0;
    uint64_t cpu_ms = 1;
    for (unsigned second = 0; !second || works[second - 1]; second++) {
        for (unsigned ms = 0; ms < 1000; ms += 10) {
            bool is_working = works[second] && ms >= 1000 - works[second];
            cpu_ms += is_working ? 10 : 0;
            samples[count++] = (struct advice_sample){.time_ns = (second * 1000 + ms) * MS,
                                                      .cpu_ns = cpu_ms * MS,
                                                      .blocked = !is_working};
        }
    }
    return count;
}

static void a_sleep_is_not_the_end(void **state)
{
    (void)state;
    struct advice_sample samples[400];
    size_t count = make_seconds(samples, (const unsigned[]){50, 60, 0});
    struct advice_start_up found = find_start_up(samples, count);
    assert_true(found.ended && !found.used);
    assert_int_equal(found.idle_ns, 2000 * MS);
    assert_int_equal(found.cpu_ns, 111 * MS);
}

static void a_timer_does_not_put_the_end_off(void **state)
{
    (void)state;
    struct advice_sample samples[400];
    size_t count = make_seconds(samples, (const unsigned[]){200, 10, 10, 0});
    assert_int_equal(find_start_up(samples, count).idle_ns, 1000 * MS);
}

/* It starts until 100 ms, is asked for something from 1500 ms on, and works for that. */
struct use {
    struct advice_sample samples[300];
    struct advice_hit hits[6];
    struct advice_run run;
};

static void make_use(struct use *use)
{
    *use = (struct use){.hits = {hit(LISTEN, 1, 90, 90), hit(EPOLL, 1, 100, 100),
                                 hit(READ, 1, 1510, 105), hit(EPOLL, 2, 1530, 120),
                                 hit(EPOLL, 3, 1579, 150), hit(EPOLL, 4, 1580, 150)}};
    use->hits[2].connections = use->hits[3].connections = 1;
    use->hits[1].waited_ns = use->hits[5].waited_ns = 1000 * MS;
    for (uint64_t i = 0; i < 300; i++) {
        uint64_t ms = i * 10;
        bool works = ms < 100 || (ms >= 1510 && ms < 1580);
        uint64_t cpu_ms = ms < 100 ? ms : ms < 1510 ? 100 : works ? 100 + (ms - 1510) * 5 / 7 : 150;
        use->samples[i] = (struct advice_sample){ms * MS, cpu_ms * MS, !works};
    }
    use->run = (struct advice_run){
        .hits = use->hits, .hit_count = 6, .samples = use->samples, .sample_count = 300};
}

static void the_rest_after_the_first_use_is_better(void **state)
{
    (void)state;
    struct use use;
    struct advice out[ADVICE_MAX];
    make_use(&use);
    struct advice_start_up found = advice_find_start_up(&use.run);
    assert_true(found.ended && found.used);
    assert_int_equal(found.idle_ns, 100 * MS);
    assert_int_equal(found.cpu_ns, 100 * MS);
    assert_int_equal(found.rest_ns, 1580 * MS);
    assert_int_equal(found.rest_cpu_ns, 150 * MS);
    assert_int_equal(advice_rank(&use.run, &found, out), 2);
    assert_int_equal(out[0].hit.function, EPOLL);
    assert_int_equal(out[0].hit.number, 4);
    assert_true(out[0].after_use && out[0].waits && out[0].share > 0.99);
    assert_int_equal(out[1].hit.function, LISTEN);
    assert_false(out[1].after_use);
}

static void after_use_there_is_a_margin(void **state)
{
    (void)state;
    struct use use;
    struct advice out[ADVICE_MAX];
    make_use(&use);
    for (size_t i = 4; i < 6; i++) {
        use.hits[i].number += 4;
        use.hits[i].waited_ns = 500 * MS;
    }
    struct advice_start_up found = advice_find_start_up(&use.run);
    advice_rank(&use.run, &found, out);
    assert_int_equal(out[0].hit.number, 8); /* 7 is the first without a connection */
}

/* What a request takes each time is not worth a number that depends on requests. */
static void a_cheap_use_is_left_out(void **state)
{
    (void)state;
    struct use use;
    struct advice out[ADVICE_MAX];
    make_use(&use);
    for (size_t i = 0; i < 300; i++)
        if (use.samples[i].cpu_ns > 100 * MS)
            use.samples[i].cpu_ns = 101 * MS;
    for (size_t i = 2; i < 6; i++)
        use.hits[i].cpu_ns = 101 * MS;
    struct advice_start_up found = advice_find_start_up(&use.run);
    assert_true(found.used);
    advice_rank(&use.run, &found, out);
    assert_int_equal(out[0].hit.number, 1);
    assert_false(out[0].after_use);
}

static void an_open_connection_is_no_rest(void **state)
{
    (void)state;
    struct use use;
    struct advice out[ADVICE_MAX];
    make_use(&use);
    use.hits[4].connections = use.hits[5].connections = 1;
    struct advice_start_up found = advice_find_start_up(&use.run);
    assert_true(found.ended && !found.used);
    assert_int_equal(advice_rank(&use.run, &found, out), 2);
    assert_int_equal(out[0].hit.number, 1);
    assert_false(out[0].after_use || out[1].after_use);
}

static void later_uses_are_not_waited_for(void **state)
{
    (void)state;
    struct use use;
    struct advice out[ADVICE_MAX];
    make_use(&use);
    for (size_t i = 250; i < 300; i++)
        use.samples[i].cpu_ns += 500 * MS;
    struct advice_start_up found = advice_find_start_up(&use.run);
    assert_int_equal(found.rest_cpu_ns, 150 * MS);
    advice_rank(&use.run, &found, out);
    assert_int_equal(out[0].hit.number, 4);
}

/* Workers that are forked within a moment are cheaper forked than restored. */
static void processes_cost(void **state)
{
    (void)state;
    struct advice_hit hits[] = {hit(LISTEN, 1, 130, 97), hit(EPOLL, 1, 149, 100)};
    struct advice_process processes[] = {{.pid = 1},
                                         {.pid = 2, .forked_ns = 135 * MS},
                                         {.pid = 3, .forked_ns = 136 * MS},
                                         {.pid = 4, .forked_ns = 136 * MS, .ended_ns = 140 * MS}};
    struct advice_run run = {.hits = hits, .hit_count = 2, .processes = processes};
    struct advice out[ADVICE_MAX];
    hits[1].waited_ns = 300 * MS;
    run.process_count = 1;
    assert_int_equal(advice_rank(&run, &start_up, out), 2);
    assert_int_equal(out[0].hit.function, EPOLL);
    run.process_count = 4;
    assert_int_equal(advice_rank(&run, &start_up, out), 2);
    assert_int_equal(out[0].hit.function, LISTEN);
    assert_int_equal(out[0].processes, 1);
    assert_int_equal(out[1].processes, 3);
}

static void a_race_with_workers_costs(void **state)
{
    (void)state;
    struct advice_hit hits[] = {hit(LISTEN, 1, 148, 99), hit(EPOLL, 1, 149, 100),
                                hit(EPOLL, 1, 150, 100)};
    struct advice_process processes[] = {
        {.pid = 1}, {.pid = 2, .forked_ns = 35 * MS}, {.pid = 3, .forked_ns = 36 * MS}};
    struct advice_run run = {
        .hits = hits, .hit_count = 3, .processes = processes, .process_count = 3};
    struct advice out[ADVICE_MAX];
    hits[1].pid = hits[1].tid = 2;
    hits[2].pid = hits[2].tid = 3;
    assert_int_equal(advice_rank(&run, &start_up, out), 2);
    assert_int_equal(out[0].hit.function, EPOLL);
    hits[2].pid = hits[2].tid = 1; /* who forks them */
    assert_int_equal(advice_rank(&run, &start_up, out), 2);
    assert_int_equal(out[0].hit.function, LISTEN);
}

static void a_sleep_is_slept_again(void **state)
{
    (void)state;
    struct advice_hit hits[] = {hit(LISTEN, 1, 20, 80), hit(READ, 1, 21, 81)};
    struct advice out[ADVICE_MAX];
    hits[1].waited_ns = 100 * MS;
    assert_int_equal(rank(hits, 2, out), 2);
    assert_int_equal(out[0].hit.function, LISTEN);
    hits[1].waited_ns = 300 * MS; /* up to its end */
    assert_int_equal(rank(hits, 2, out), 2);
    assert_int_equal(out[0].hit.function, READ);
}

static void how_far_workers_are_is_not_left_to_chance(void **state)
{
    (void)state;
    struct advice_hit hits[] = {hit(LISTEN, 1, 100, 70), hit(EPOLL, 1, 90, 68)};
    struct advice_process processes[] = {{.pid = 1}, {.pid = 2, .forked_ns = 35 * MS}};
    struct advice_run run = {
        .hits = hits, .hit_count = 2, .processes = processes, .process_count = 2};
    struct advice out[ADVICE_MAX];
    assert_int_equal(advice_rank(&run, &start_up, out), 2);
    assert_int_equal(out[0].hit.function, LISTEN);
    hits[1].pid = hits[1].tid = 2;
    assert_int_equal(advice_rank(&run, &start_up, out), 2);
    assert_int_equal(out[0].hit.function, EPOLL);
}

/* What compiles in the background does not make a number of many threads a good one. */
static void work_in_the_background_hardly_counts(void **state)
{
    (void)state;
    struct advice_hit hits[] = {hit(EPOLL, 1, 140, 92), hit(READ, 1, 150, 50),
                                hit(READ, 1500, 160, 100)};
    struct advice out[ADVICE_MAX];
    hits[0].waited_ns = hits[2].waited_ns = 500 * MS;
    hits[1].tid = 2;
    assert_int_equal(rank(hits, 3, out), 2);
    assert_int_equal(out[0].hit.function, EPOLL);
    assert_true(out[0].score - out[1].score > 0.4);
}

static void memory_costs(void **state)
{
    (void)state;
    struct advice_hit hits[] = {hit(LISTEN, 1, 130, 90), hit(EPOLL, 1, 149, 100)};
    struct advice out[ADVICE_MAX];
    hits[0].memory_bytes = 10ULL << 20;
    hits[1].memory_bytes = 20ULL << 20;
    assert_int_equal(rank(hits, 2, out), 2);
    assert_int_equal(out[0].hit.function, EPOLL);
    hits[1].memory_bytes = 100ULL << 20; /* filled in 10 ms; it takes longer to restore */
    assert_int_equal(rank(hits, 2, out), 2);
    assert_int_equal(out[0].hit.function, LISTEN);
    assert_true(out[1].score > 0);
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
        cmocka_unit_test(a_sleep_is_not_the_end),
        cmocka_unit_test(a_timer_does_not_put_the_end_off),
        cmocka_unit_test(the_rest_after_the_first_use_is_better),
        cmocka_unit_test(after_use_there_is_a_margin),
        cmocka_unit_test(a_cheap_use_is_left_out),
        cmocka_unit_test(an_open_connection_is_no_rest),
        cmocka_unit_test(later_uses_are_not_waited_for),
        cmocka_unit_test(processes_cost),
        cmocka_unit_test(a_race_with_workers_costs),
        cmocka_unit_test(a_sleep_is_slept_again),
        cmocka_unit_test(how_far_workers_are_is_not_left_to_chance),
        cmocka_unit_test(work_in_the_background_hardly_counts),
        cmocka_unit_test(memory_costs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
