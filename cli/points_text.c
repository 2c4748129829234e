#include "cli/points_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/image_text.h"
#include "cli/points_timeline.h"
#include "lib/fd.h"
#include "lib/proc.h"

/* ---- the pieces ---- */

static double ms_since(const struct learnt *learnt, uint64_t time_ns)
{
    return time_ns > learnt->begun_ns ? (double)(time_ns - learnt->begun_ns) / 1e6 : 0;
}

/* Of the start-up's, or where that has not ended of all. */
static int percent(const struct learnt *learnt, uint64_t cpu_ns)
{
    uint64_t all = learnt->start_up.cpu_ns;
    if (!all)
        return 0;
    return cpu_ns >= all ? 100 : (int)(cpu_ns * 100 / all);
}

/* As a shell reads it; what would move the cursor is not shown. */
static void put_word(FILE *to, const char *word)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                               "0123456789_-+=./:,@%";
    bool quoted = !*word || word[strspn(word, safe)];
    if (quoted)
        fputc('\'', to);
    for (; *word; word++) {
        unsigned char c = (unsigned char)*word;
        if (c == '\'')
            fputs("'\\''", to);
        else
            fputc(c < 0x20 || c == 0x7f ? '?' : c, to);
    }
    if (quoted)
        fputc('\'', to);
}

static char *command_line(const struct advice *advice, char *const argv[])
{
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    fprintf(to, "freezepoint run --at %s#%" PRIu64 " -- ", function_name(advice->hit.function),
            advice->hit.number);
    if (!argv)
        fputs("COMMAND", to);
    for (size_t i = 0; argv && argv[i]; i++) {
        if (i)
            fputc(' ', to);
        put_word(to, argv[i]);
    }
    fclose(to);
    return text;
}

static char *reasons(const struct advice *advice)
{
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    if (advice->after_use)
        fputs("after its first use (send it the same then)", to);
    else
        fprintf(to, "after %d %% of the start-up's CPU", (int)(advice->share * 100));
    if (advice->waits && advice->hit.waited_ns < 200000000)
        fputs(", it waits there again and again", to);
    else if (advice->waits)
        fprintf(to, ", it waits there for %s%.1f s", advice->hit.waits_still ? "more than " : "",
                (double)advice->hit.waited_ns / 1e9);
    if (advice->hit.connections)
        fprintf(to, ", but with %u connection%s open", advice->hit.connections,
                advice->hit.connections == 1 ? "" : "s");
    else
        fputs(", no connection open", to);
    fputs(advice->is_half_started ? ", but with a child half-started" : ", no child half-started",
          to);
    if (advice->threads > 1)
        fprintf(to, ", but %u threads call it: the number may be another one next time",
                advice->threads);
    fclose(to);
    return text;
}

/* ---- for people ---- */

static void print_row(FILE *to, const struct learnt *learnt, const char *name,
                      const struct learn_function *row, bool is_function)
{
    fprintf(to, "%-22s %10.1f %10.1f %10" PRIu64 " %7u %10.1f", name,
            ms_since(learnt, row->first_ns), ms_since(learnt, row->last_ns), row->count,
            row->threads, (double)row->waited_ns / 1e6);
    if (is_function)
        fprintf(to, " %5d %5d", percent(learnt, row->first_cpu_ns),
                percent(learnt, row->last_cpu_ns));
    fputc('\n', to);
}

static void print_tables(FILE *to, const struct learnt *learnt)
{
    static const char *const heads[] = {"FIRST/ms", "LAST/ms", "CALLS", "THREADS", "WAITED/ms"};
    fprintf(to, "%-22s %10s %10s %10s %7s %10s  CPU%% at first, last\n", "FUNCTION", heads[0],
            heads[1], heads[2], heads[3], heads[4]);
    for (unsigned int i = 0; function_name(i); i++)
        if (learnt->functions[i].count)
            print_row(to, learnt, function_name(i), &learnt->functions[i], true);
    fprintf(to, "\n%-22s %10s %10s %10s %7s %10s\n", "SYSTEM CALL THAT WAITS", heads[0], heads[1],
            heads[2], heads[3], heads[4]);
    for (size_t i = 0; i < learnt->call_count; i++) {
        const struct learn_call *call = &learnt->calls[i];
        struct learn_function row = {.count = call->count,
                                     .waited_ns = call->waited_ns,
                                     .first_ns = call->first_ns,
                                     .last_ns = call->last_ns,
                                     .threads = call->threads};
        print_row(to, learnt, points_wait_name(call->call), &row, false);
    }
}

static void print_start_up(FILE *to, const struct learnt *learnt)
{
    char memory[32];
    if (!learnt->start_up.ended) {
        fprintf(to,
                "\nIt was never idle for 200 ms (%.1f ms of CPU in %.1f ms): there is no advice.\n",
                (double)learnt->cpu_ns / 1e6, ms_since(learnt, learnt->ended_ns));
        return;
    }
    text_of_size(learnt_memory_at(learnt, learnt->start_up.idle_ns), memory);
    fprintf(to, "\nStart-up took %.1f ms, %.1f ms of CPU, %s of memory; then it was idle.\n",
            ms_since(learnt, learnt->start_up.idle_ns), (double)learnt->start_up.cpu_ns / 1e6,
            memory);
}

static void print_doubts(FILE *to, const struct learnt *learnt)
{
    if (learnt->lost)
        fprintf(to, "%" PRIu64 " single hits were lost; the counts are right.\n", learnt->lost);
    if (learnt->uncounted)
        fprintf(to, "%" PRIu64 " calls were not counted: too many threads.\n", learnt->uncounted);
    if (learnt->unprobed)
        fprintf(to, "The functions of %zu processes were not seen.\n", learnt->unprobed);
}

void points_print(FILE *to, const struct learnt *learnt, char *const argv[])
{
    print_tables(to, learnt);
    print_start_up(to, learnt);
    print_doubts(to, learnt);
    for (size_t i = 0; i < learnt->advice_count; i++) {
        const struct advice *advice = &learnt->advice[i];
        _cleanup_free_ char *why = reasons(advice), *line = command_line(advice, argv);
        fprintf(to, "%s%zu. %s#%" PRIu64 ": %s\n", i ? "" : "\nAdvice:\n", i + 1,
                function_name(advice->hit.function), advice->hit.number, why ? why : "");
        if (!i && advice->score > 0)
            fprintf(to, "   %s\n", line ? line : "");
    }
}

/* ---- for programs ---- */

static void add(struct json_object *to, const char *key, struct json_object *value)
{
    json_object_object_add(to, key, value);
}

static void add_number(struct json_object *to, const char *key, uint64_t value)
{
    add(to, key, json_object_new_uint64(value));
}

static uint64_t since(const struct learnt *learnt, uint64_t time_ns)
{
    return time_ns > learnt->begun_ns ? time_ns - learnt->begun_ns : 0;
}

static struct json_object *hit_json(const struct learnt *learnt, const struct advice_hit *hit)
{
    struct json_object *object = json_object_new_object();
    add(object, "function", json_object_new_string(function_name(hit->function)));
    add_number(object, "number", hit->number);
    add_number(object, "pid", hit->pid);
    add_number(object, "tid", hit->tid);
    add_number(object, "time_ns", since(learnt, hit->time_ns));
    add_number(object, "cpu_ns", hit->cpu_ns);
    add_number(object, "memory_bytes", learnt_memory_at(learnt, hit->time_ns));
    add_number(object, "waited_ns", hit->waited_ns);
    add(object, "waits_still", json_object_new_boolean(hit->waits_still));
    add_number(object, "connections", hit->connections);
    return object;
}

/* "FILE+0xOFFSET", the offset in the file, or an address alone. */
static struct json_object *stack_json(const struct learnt *learnt, size_t index)
{
    struct json_object *list = json_object_new_array();
    const uint64_t *stack = learnt->stacks[index];
    for (size_t i = 0; i < POINTS_STACK_MAX && stack[i]; i++) {
        const struct place *place =
            places_find(&learnt->places, (pid_t)learnt->hits[index].pid, stack[i]);
        _cleanup_free_ char *text = NULL;
        int length = place ? asprintf(&text, "%s+0x%" PRIx64, place->path,
                                      stack[i] - place->start + place->offset)
                           : asprintf(&text, "0x%" PRIx64, stack[i]);
        if (length > 0)
            json_object_array_add(list, json_text(text, (size_t)length));
    }
    return list;
}

static struct json_object *hits_json(const struct learnt *learnt)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < learnt->hit_count; i++) {
        if (!function_name(learnt->hits[i].function))
            continue;
        struct json_object *object = hit_json(learnt, &learnt->hits[i]);
        add(object, "stack", stack_json(learnt, i));
        add(object, "callers", callers_json(learnt, &learnt->hits[i]));
        json_object_array_add(list, object);
    }
    return list;
}

static struct json_object *advice_json(const struct learnt *learnt, const struct advice *advice,
                                       char *const argv[])
{
    struct json_object *object = hit_json(learnt, &advice->hit);
    char point[64];
    snprintf(point, sizeof(point), "%s#%" PRIu64, function_name(advice->hit.function),
             advice->hit.number);
    _cleanup_free_ char *why = reasons(advice), *line = command_line(advice, argv);
    add(object, "point", json_object_new_string(point));
    add(object, "fit", json_object_new_boolean(advice->score > 0));
    add(object, "score", json_object_new_double(advice->score));
    add(object, "after_use", json_object_new_boolean(advice->after_use));
    add(object, "cpu_share", json_object_new_double(advice->share));
    add(object, "waits", json_object_new_boolean(advice->waits));
    add(object, "half_started_child", json_object_new_boolean(advice->is_half_started));
    add_number(object, "threads", advice->threads);
    add_number(object, "processes", advice->processes);
    add(object, "reasons", why ? json_text(why, strlen(why)) : NULL);
    add(object, "command", line ? json_text(line, strlen(line)) : NULL);
    return object;
}

static struct json_object *functions_json(const struct learnt *learnt)
{
    struct json_object *list = json_object_new_array();
    for (unsigned int i = 0; function_name(i); i++) {
        const struct learn_function *function = &learnt->functions[i];
        if (!function->count)
            continue;
        struct json_object *object = json_object_new_object();
        add(object, "function", json_object_new_string(function_name(i)));
        add_number(object, "calls", function->count);
        add_number(object, "threads", function->threads);
        add_number(object, "first_ns", since(learnt, function->first_ns));
        add_number(object, "last_ns", since(learnt, function->last_ns));
        add_number(object, "first_cpu_ns", function->first_cpu_ns);
        add_number(object, "last_cpu_ns", function->last_cpu_ns);
        add_number(object, "waited_ns", function->waited_ns);
        json_object_array_add(list, object);
    }
    return list;
}

static struct json_object *calls_json(const struct learnt *learnt)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < learnt->call_count; i++) {
        const struct learn_call *call = &learnt->calls[i];
        struct json_object *object = json_object_new_object();
        add(object, "call", json_object_new_string(points_wait_name(call->call)));
        add_number(object, "calls", call->count);
        add_number(object, "threads", call->threads);
        add_number(object, "first_ns", since(learnt, call->first_ns));
        add_number(object, "last_ns", since(learnt, call->last_ns));
        add_number(object, "waited_ns", call->waited_ns);
        json_object_array_add(list, object);
    }
    return list;
}

static struct json_object *processes_json(const struct learnt *learnt)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < learnt->process_count; i++) {
        const struct advice_process *process = &learnt->processes[i];
        struct json_object *object = json_object_new_object();
        add_number(object, "pid", process->pid);
        add(object, "comm", json_text(learnt->names[i], strnlen(learnt->names[i], 16)));
        add_number(object, "forked_ns", since(learnt, process->forked_ns));
        add_number(object, "executed_ns", since(learnt, process->executed_ns));
        add_number(object, "ended_ns", since(learnt, process->ended_ns));
        json_object_array_add(list, object);
    }
    return list;
}

static struct json_object *words_json(char *const argv[])
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; argv && argv[i]; i++)
        json_object_array_add(list, json_text(argv[i], strlen(argv[i])));
    return list;
}

struct json_object *points_json(const struct learnt *learnt, char *const argv[])
{
    struct json_object *object = json_object_new_object();
    add(object, "program", argv ? words_json(argv) : NULL);
    add(object, "freezepoint_version", json_object_new_string(FREEZEPOINT_VERSION));
    add_number(object, "made_unix_ns", proc_realtime_ns());
    add_number(object, "processors", (uint64_t)sysconf(_SC_NPROCESSORS_ONLN));
    struct json_object *advice = json_object_new_array();
    bool is_known = learnt->start_up.ended;
    for (size_t i = 0; i < learnt->advice_count; i++)
        json_object_array_add(advice, advice_json(learnt, &learnt->advice[i], argv));
    add_number(object, "duration_ns", since(learnt, learnt->ended_ns));
    add_number(object, "cpu_ns", learnt->cpu_ns);
    add(object, "start_up_ns",
        is_known ? json_object_new_uint64(since(learnt, learnt->start_up.idle_ns)) : NULL);
    add(object, "start_up_cpu_ns",
        is_known ? json_object_new_uint64(learnt->start_up.cpu_ns) : NULL);
    add(object, "start_up_memory_bytes",
        is_known ? json_object_new_uint64(learnt_memory_at(learnt, learnt->start_up.idle_ns))
                 : NULL);
    add(object, "advice", advice);
    add(object, "functions", functions_json(learnt));
    add(object, "system_calls", calls_json(learnt));
    add(object, "processes", processes_json(learnt));
    add(object, "hits", hits_json(learnt));
    add(object, "timeline", timeline_json(learnt));
    add_number(object, "lost_hits", learnt->lost);
    add_number(object, "uncounted_calls", learnt->uncounted);
    add_number(object, "unprobed_processes", learnt->unprobed);
    add_number(object, "lost_stacks", learnt->lost_copies);
    add_number(object, "left_out_stacks", learnt->callers.left_out + learnt->callers.unnamed);
    return object;
}
