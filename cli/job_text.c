#include "cli/job_text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli/image_text.h"
#include "lib/job.h"

/* ---- JSON ---- */

static void add(struct json_object *to, const char *name, struct json_object *value)
{
    json_object_object_add(to, name, value);
}

static void add_number(struct json_object *to, const char *name, uint64_t number)
{
    add(to, name, json_object_new_uint64(number));
}

static void add_text(struct json_object *to, const char *name, const char *text)
{
    add(to, name, text && *text ? json_text(text, strlen(text)) : NULL);
}

/* As the kernel writes it, without the noise of binary fractions. */
static struct json_object *percent_json(double percent)
{
    char text[32];
    snprintf(text, sizeof(text), "%.2f", percent);
    return json_object_new_double_s(percent, text);
}

static struct json_object *stall_json(const struct cgroup_stall *stall)
{
    if (!stall->known)
        return NULL;
    struct json_object *object = json_object_new_object();
    add(object, "avg10", percent_json(stall->avg10));
    add(object, "avg60", percent_json(stall->avg60));
    add(object, "avg300", percent_json(stall->avg300));
    add_number(object, "total_us", stall->total_us);
    return object;
}

static struct json_object *pressure_json(const struct cgroup_pressure *pressure)
{
    struct json_object *object = json_object_new_object();
    add(object, "some", stall_json(&pressure->some));
    add(object, "full", stall_json(&pressure->full));
    return object;
}

static void add_group(struct json_object *to, const struct job_view *view)
{
    static const char *const sources[] = {"", "group", "pss", "rss"};
    bool measured = view->memory_source != JOB_MEMORY_UNKNOWN;
    add_number(to, "processes", view->processes);
    add(to, "memory_bytes", measured ? json_object_new_uint64(view->memory_bytes) : NULL);
    add_text(to, "memory_source", sources[view->memory_source]);
    struct json_object *pressure = json_object_new_object();
    add(pressure, "cpu", pressure_json(&view->cpu));
    add(pressure, "memory", pressure_json(&view->memory));
    add(pressure, "io", pressure_json(&view->io));
    add(to, "pressure", pressure);
}

static struct json_object *command_json(const Freezepoint__JobStatus *status)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < status->n_argv; i++)
        json_object_array_add(list, json_bytes(&status->argv[i]));
    return list;
}

static struct json_object *pause_json(uint64_t ns)
{
    char text[32];
    snprintf(text, sizeof(text), "%.3f", (double)ns / 1e6);
    return json_object_new_double_s((double)ns / 1e6, text);
}

static struct json_object *number_json(bool known, uint64_t number)
{
    return known ? json_object_new_uint64(number) : NULL;
}

static void add_told(struct json_object *to, const Freezepoint__JobStatus *told)
{
    static const Freezepoint__JobStatus nothing = FREEZEPOINT__JOB_STATUS__INIT;
    const Freezepoint__JobStatus *status = told ? told : &nothing;
    bool runs = status->supervised;
    char started[32] = "";
    if (runs)
        text_of_time(status->started_unix_ns, started);
    add_text(to, "started", started);
    add(to, "started_unix_ns", number_json(runs, status->started_unix_ns));
    add(to, "supervisor_pid", number_json(told, status->supervisor_pid));
    add_text(to, "image", status->image_name);
    add_text(to, "restored_from", status->restored_from);
    add(to, "generation", number_json(status->generation, status->generation));
    add(to, "points_hit", number_json(runs, status->hits));
    add(to, "checkpoints", number_json(runs, status->checkpoints));
    add(to, "failures", number_json(runs, status->failures));
    add(to, "last_pause_ms", status->last_pause_ns ? pause_json(status->last_pause_ns) : NULL);
    add(to, "command", runs ? command_json(status) : NULL);
}

struct json_object *job_json(const struct job_view *view)
{
    struct json_object *object = json_object_new_object();
    add_text(object, "name", view->name);
    add_text(object, "state", job_state_name(view->state));
    add(object, "frozen", json_object_new_boolean(view->frozen));
    add(object, "pid", view->root ? json_object_new_int(view->root) : NULL);
    add_told(object, view->status);
    add_group(object, view);
    add_text(object, "problem", view->problem);
    return object;
}

/* ---- the table ---- */

enum column { JOB, STATE, PID, GEN, POINTS, CKPT, MEM, PSI_CPU, PSI_MEM, PSI_IO, PAUSE, COLUMNS };

static const char *const titles[COLUMNS] = {
    [JOB] = "JOB",         [STATE] = "STATE",   [PID] = "PID",     [GEN] = "GEN",
    [POINTS] = "POINTS",   [CKPT] = "CKPT",     [MEM] = "MEM",     [PSI_CPU] = "PSI-CPU",
    [PSI_MEM] = "PSI-MEM", [PSI_IO] = "PSI-IO", [PAUSE] = "PAUSE",
};

struct job_row {
    char cells[COLUMNS][JOB_NAME_MAX + 1];
};

__attribute__((format(printf, 3, 4))) static void fill(struct job_row *row, enum column column,
                                                       const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(row->cells[column], sizeof(row->cells[column]), format, args);
    va_end(args);
}

static void fill_stall(struct job_row *row, enum column column,
                       const struct cgroup_pressure *pressure)
{
    if (pressure->some.known && pressure->full.known)
        fill(row, column, "%.1f/%.1f", pressure->some.avg10, pressure->full.avg10);
    else if (pressure->some.known)
        fill(row, column, "%.1f/-", pressure->some.avg10);
}

static void fill_told(struct job_row *row, const Freezepoint__JobStatus *status)
{
    fill(row, GEN, status->generation ? "%" PRIu64 : "-", status->generation);
    fill(row, POINTS, "%" PRIu64, status->hits);
    fill(row, CKPT, "%" PRIu64, status->checkpoints);
    fill(row, PAUSE, status->last_pause_ns ? "%.1f ms" : "-", (double)status->last_pause_ns / 1e6);
}

int job_table_add(struct job_table *table, const struct job_view *view, struct err *err)
{
    struct job_row *larger = reallocarray(table->rows, table->count + 1, sizeof(*larger));
    if (!larger)
        return err_set(err, ENOMEM, "table");
    table->rows = larger;
    struct job_row *row = &table->rows[table->count++];
    for (int column = 0; column < COLUMNS; column++)
        fill(row, column, "?");
    fill(row, JOB, "%s", view->name);
    fill(row, STATE, "%s%s", view->state == JOB_UNKNOWN ? "?" : job_state_name(view->state),
         view->frozen && view->state != JOB_FROZEN ? ",frozen" : "");
    fill(row, PID, view->root ? "%d" : "-", view->root);
    if (view->memory_source != JOB_MEMORY_UNKNOWN)
        text_of_size(view->memory_bytes, row->cells[MEM]);
    else
        fill(row, MEM, "-");
    fill_stall(row, PSI_CPU, &view->cpu);
    fill_stall(row, PSI_MEM, &view->memory);
    fill_stall(row, PSI_IO, &view->io);
    if (view->status)
        fill_told(row, view->status);
    return 0;
}

static void print_cells(FILE *to, const struct job_row *row, const int widths[COLUMNS])
{
    /* Names to the left, numbers to the right. */
    for (int column = 0; column < COLUMNS; column++)
        fprintf(to, "%s%*s", column ? "  " : "", column <= STATE ? -widths[column] : widths[column],
                row->cells[column]);
    fputc('\n', to);
}

void job_table_print(FILE *to, const struct job_table *table)
{
    struct job_row head = {0};
    int widths[COLUMNS];
    for (int column = 0; column < COLUMNS; column++) {
        fill(&head, column, "%s", titles[column]);
        widths[column] = (int)strlen(titles[column]);
        for (size_t i = 0; i < table->count; i++) {
            int length = (int)strlen(table->rows[i].cells[column]);
            widths[column] = length > widths[column] ? length : widths[column];
        }
    }
    print_cells(to, &head, widths);
    for (size_t i = 0; i < table->count; i++)
        print_cells(to, &table->rows[i], widths);
}

void job_table_release(struct job_table *table)
{
    free(table->rows);
    *table = (struct job_table){0};
}
