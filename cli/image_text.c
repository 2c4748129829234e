#include "cli/image_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/fd.h"
#include "trigger/point.h"

void text_of_size(uint64_t bytes, char text[32])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1000 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++)
        value /= 1000;
    snprintf(text, 32, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

void text_of_time(uint64_t unix_ns, char text[32])
{
    time_t seconds = (time_t)(unix_ns / 1000000000U);
    struct tm local;
    localtime_r(&seconds, &local);
    strftime(text, 32, "%Y-%m-%d %H:%M:%S", &local);
}

void text_of_point(const Freezepoint__Point *point, char *text, size_t size)
{
    if (!point->spec[0]) {
        snprintf(text, size, "request");
        return;
    }
    int length = (int)point_length_unnumbered(point->spec);
    snprintf(text, size, "%.*s#%" PRIu64, length, point->spec, point->hit);
}

void print_bytes(FILE *to, const ProtobufCBinaryData *bytes)
{
    for (size_t i = 0; i < bytes->len; i++)
        fputc(bytes->data[i] < ' ' || bytes->data[i] == 0x7f ? '?' : bytes->data[i], to);
}

/* The length of the UTF-8 sequence at `text`, or 0 where there is none (RFC 3629). */
static size_t utf8_length(const unsigned char *text, size_t size)
{
    static const struct {
        unsigned char mask, head;
        uint32_t least;
    } forms[] = {{0x80, 0, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    size_t more = 0;
    while (more < 4 && (text[0] & forms[more].mask) != forms[more].head)
        more++;
    if (more == 4 || more >= size)
        return 0;
    uint32_t letter = text[0] & (unsigned char)~forms[more].mask;
    for (size_t i = 1; i <= more; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        letter = letter << 6 | (text[i] & 0x3f);
    }
    bool surrogate = letter >= 0xd800 && letter < 0xe000;
    return letter < forms[more].least || letter > 0x10ffff || surrogate ? 0 : more + 1;
}

struct json_object *json_text(const void *bytes, size_t size)
{
    static const char replacement[] = "\xef\xbf\xbd";
    const unsigned char *from = bytes;
    _cleanup_free_ char *text = malloc(size * (sizeof(replacement) - 1) + 1);
    size_t length = 0;
    for (size_t i = 0; text && i < size;) {
        size_t valid = utf8_length(from + i, size - i);
        size_t used = valid ? valid : sizeof(replacement) - 1;
        memcpy(text + length, valid ? (const void *)(from + i) : replacement, used);
        length += used;
        i += valid ? valid : 1;
    }
    return json_object_new_string_len(text ? text : "", (int)length);
}

struct json_object *json_bytes(const ProtobufCBinaryData *bytes)
{
    return json_text(bytes->data, bytes->len);
}

static void add_string(struct json_object *to, const char *name, const char *text)
{
    json_object_object_add(to, name, json_text(text, strlen(text)));
}

static void add_number(struct json_object *to, const char *name, uint64_t number)
{
    json_object_object_add(to, name, json_object_new_uint64(number));
}

static void add_bool(struct json_object *to, const char *name, bool value)
{
    json_object_object_add(to, name, json_object_new_boolean(value));
}

static uint32_t count_threads(const Freezepoint__Manifest *manifest)
{
    uint32_t threads = 0;
    for (size_t i = 0; i < manifest->n_processes; i++)
        threads += manifest->processes[i]->threads;
    return threads;
}

static void add_summary(struct json_object *to, const Freezepoint__Manifest *manifest)
{
    char created[32], point[600];
    text_of_time(manifest->created_unix_ns, created);
    text_of_point(manifest->point, point, sizeof(point));
    add_string(to, "created", created);
    add_number(to, "created_unix_ns", manifest->created_unix_ns);
    add_string(to, "point", point);
    json_object_object_add(to, "executable", json_bytes(&manifest->command->executable));
    add_number(to, "processes", manifest->n_processes);
    add_number(to, "threads", count_threads(manifest));
}

static void add_size(struct json_object *to, const struct image_size *size)
{
    add_number(to, "size_bytes", size->apparent);
    add_number(to, "size_on_disk_bytes", size->on_disk);
}

struct json_object *image_summary_json(const struct store_entry *entry)
{
    struct json_object *object = json_object_new_object();
    add_string(object, "name", entry->name);
    add_number(object, "generation", entry->generation);
    add_bool(object, "newest", entry->newest);
    if (entry->problem)
        add_string(object, "problem", entry->problem);
    if (!entry->image)
        return object;
    struct image_size size;
    struct err ignored;
    add_summary(object, entry->image->manifest);
    if (image_measure(entry->image, &size, &ignored) == 0)
        add_size(object, &size);
    return object;
}

/* Milliseconds between two moments of the manifest; negative: one did not happen. */
static double elapsed_ms(uint64_t from, uint64_t to)
{
    return from && to >= from ? (double)(to - from) / 1e6 : -1;
}

/* The phases that `inspect` shows, in their order. */
struct phase {
    const char *name;
    double ms; /* negative: not known */
};

#define PHASES_MAX 5

static size_t keep_known(const struct phase *all, size_t count, struct phase *known)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (all[i].ms >= 0)
            known[kept++] = all[i];
    return kept;
}

static size_t list_phases(const Freezepoint__Timings *times, struct phase known[PHASES_MAX])
{
    uint64_t end = times->thawed_ns ? times->thawed_ns : times->dumped_ns;
    const struct phase all[] = {
        {"notified_to_ready_ms", elapsed_ms(times->notified_ns, times->dump_ready_ns)},
        {"ready_to_frozen_ms", elapsed_ms(times->dump_ready_ns, times->frozen_ns)},
        {"frozen_to_dumped_ms", elapsed_ms(times->frozen_ns, times->dumped_ns)},
        {"dumped_to_thawed_ms", elapsed_ms(times->dumped_ns, times->thawed_ns)},
        {"pause_ms", elapsed_ms(times->frozen_ns, end)},
    };
    return keep_known(all, sizeof(all) / sizeof(all[0]), known);
}

static size_t list_kernel_phases(const Freezepoint__Mark *mark, struct phase known[PHASES_MAX])
{
    const struct phase all[] = {
        {"point_to_frozen_ms", elapsed_ms(mark->point_ns, mark->frozen_ns)},
        {"frozen_to_thawed_ms", elapsed_ms(mark->frozen_ns, mark->thawed_ns)},
        {"frozen_to_resumed_ms", elapsed_ms(mark->frozen_ns, mark->resumed_ns)},
        {"point_to_resumed_ms", elapsed_ms(mark->point_ns, mark->resumed_ns)},
    };
    return keep_known(all, sizeof(all) / sizeof(all[0]), known);
}

static void add_phases(struct json_object *to, const struct phase *phases, size_t count)
{
    for (size_t i = 0; i < count; i++)
        json_object_object_add(to, phases[i].name, json_object_new_double(phases[i].ms));
}

static struct json_object *timings_json(const Freezepoint__Timings *times)
{
    struct json_object *object = json_object_new_object();
    struct phase phases[PHASES_MAX];
    size_t count = list_phases(times, phases);
    add_phases(object, phases, count);
    add_number(object, "notified_ns", times->notified_ns);
    add_number(object, "dump_ready_ns", times->dump_ready_ns);
    add_number(object, "frozen_ns", times->frozen_ns);
    add_number(object, "dumped_ns", times->dumped_ns);
    add_number(object, "thawed_ns", times->thawed_ns);
    return object;
}

static struct json_object *json_hex(const ProtobufCBinaryData *bytes)
{
    char text[2 * 64 + 1] = "";
    for (size_t i = 0; i < bytes->len && i < 64; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes->data[i]);
    return json_object_new_string(text);
}

static struct json_object *frame_json(const Freezepoint__Frame *frame)
{
    struct json_object *object = json_object_new_object();
    add_number(object, "address", frame->address);
    json_object_object_add(object, "module", json_bytes(&frame->module));
    json_object_object_add(object, "build_id", json_hex(&frame->build_id));
    add_number(object, "offset", frame->offset);
    json_object_object_add(object, "symbol", json_bytes(&frame->symbol));
    add_number(object, "symbol_offset", frame->symbol_offset);
    return object;
}

static struct json_object *mark_json(const Freezepoint__Mark *mark)
{
    if (!mark)
        return NULL;
    struct json_object *object = json_object_new_object(), *stack = json_object_new_array();
    struct phase phases[PHASES_MAX];
    size_t count = list_kernel_phases(mark, phases);
    add_phases(object, phases, count);
    add_number(object, "cgroup_id", mark->cgroup_id);
    add_number(object, "host_pid", mark->host_pid);
    add_number(object, "host_tid", mark->host_tid);
    add_number(object, "pid", mark->pid);
    add_number(object, "tid", mark->tid);
    json_object_object_add(object, "comm", json_bytes(&mark->comm));
    add_number(object, "point_ns", mark->point_ns);
    add_number(object, "frozen_ns", mark->frozen_ns);
    add_number(object, "thawed_ns", mark->thawed_ns);
    add_number(object, "resumed_ns", mark->resumed_ns);
    add_number(object, "lost", mark->lost);
    for (size_t i = 0; i < mark->n_stack; i++)
        json_object_array_add(stack, frame_json(mark->stack[i]));
    json_object_object_add(object, "stack", stack);
    return object;
}

static struct json_object *processes_json(const Freezepoint__Manifest *manifest)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < manifest->n_processes; i++) {
        const Freezepoint__Process *process = manifest->processes[i];
        struct json_object *object = json_object_new_object();
        add_number(object, "pid", process->pid);
        add_number(object, "ppid", process->ppid);
        json_object_object_add(object, "comm", json_bytes(&process->comm));
        json_object_object_add(object, "executable", json_bytes(&process->executable));
        add_number(object, "threads", process->threads);
        add_number(object, "rss_bytes", process->rss_bytes);
        add_bool(object, "has_shim", process->control_address != 0);
        json_object_array_add(list, object);
    }
    return list;
}

static struct json_object *point_json(const Freezepoint__Point *point)
{
    struct json_object *object = json_object_new_object();
    add_string(object, "spec", point->spec);
    json_object_object_add(object, "library", json_bytes(&point->library));
    add_string(object, "function", point->function);
    add_number(object, "hit", point->hit);
    add_number(object, "pid", point->pid);
    add_number(object, "tid", point->tid);
    json_object_object_add(object, "comm", json_bytes(&point->comm));
    return object;
}

static struct json_object *rules_json(const Freezepoint__Manifest *manifest)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < manifest->n_points; i++) {
        struct json_object *object = json_object_new_object();
        add_string(object, "spec", manifest->points[i]->spec);
        add_number(object, "every", manifest->points[i]->every);
        add_bool(object, "done", manifest->points[i]->done);
        if (point_is_probe(manifest->points[i]->spec))
            add_number(object, "hits", manifest->points[i]->hits);
        json_object_array_add(list, object);
    }
    return list;
}

static const char *kind_name(Freezepoint__StdioKind kind)
{
    switch (kind) {
    case FREEZEPOINT__STDIO_KIND__STDIO_PIPE:
        return "pipe";
    case FREEZEPOINT__STDIO_KIND__STDIO_TTY:
        return "terminal";
    default:
        return "other";
    }
}

static struct json_object *streams_json(const Freezepoint__Manifest *manifest)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < manifest->n_stdio; i++) {
        struct json_object *object = json_object_new_object();
        add_number(object, "fd", manifest->stdio[i]->fd);
        add_string(object, "kind", kind_name(manifest->stdio[i]->kind));
        add_string(object, "key", manifest->stdio[i]->key);
        json_object_array_add(list, object);
    }
    return list;
}

static struct json_object *host_json(const Freezepoint__Manifest *manifest)
{
    struct json_object *object = json_object_new_object();
    add_string(object, "hostname", manifest->host->hostname);
    add_string(object, "kernel", manifest->host->kernel_release);
    add_string(object, "architecture", manifest->host->architecture);
    add_string(object, "criu", manifest->criu_version);
    add_string(object, "freezepoint", manifest->freezepoint_version);
    return object;
}

static struct json_object *command_json(const Freezepoint__Command *command)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < command->n_argv; i++)
        json_object_array_add(list, json_bytes(&command->argv[i]));
    return list;
}

struct json_object *image_json(const struct image *image, const struct image_size *size)
{
    const Freezepoint__Manifest *manifest = image->manifest;
    struct json_object *object = json_object_new_object();
    add_string(object, "name", manifest->name);
    add_number(object, "generation", image->generation);
    add_string(object, "path", image->path);
    add_number(object, "format", manifest->format);
    add_summary(object, manifest);
    add_size(object, size);
    json_object_object_add(object, "hit", point_json(manifest->point));
    json_object_object_add(object, "points", rules_json(manifest));
    json_object_object_add(object, "command", command_json(manifest->command));
    json_object_object_add(object, "cwd", json_bytes(&manifest->command->cwd));
    add_string(object, "then", manifest->then_stop ? "stop" : "continue");
    static const char *const tcp[] = {"none", "established", "close"};
    add_string(object, "tcp", tcp[manifest->tcp < 3 ? manifest->tcp : 0]);
    json_object_object_add(object, "timings", timings_json(manifest->timings));
    json_object_object_add(object, "mark", mark_json(manifest->mark));
    json_object_object_add(object, "process_list", processes_json(manifest));
    json_object_object_add(object, "streams", streams_json(manifest));
    json_object_object_add(object, "preload", json_bytes(&manifest->preload->path));
    json_object_object_add(object, "made_on", host_json(manifest));
    return object;
}

static void print_processes(FILE *to, const Freezepoint__Manifest *manifest)
{
    fprintf(to, "processes   %zu, threads %u\n", manifest->n_processes, count_threads(manifest));
    for (size_t i = 0; i < manifest->n_processes; i++) {
        const Freezepoint__Process *process = manifest->processes[i];
        char rss[32];
        text_of_size(process->rss_bytes, rss);
        fprintf(to, "            %7u  ", process->pid);
        print_bytes(to, &process->comm);
        fprintf(to, "  %u thread%s, %s resident\n", process->threads,
                process->threads == 1 ? "" : "s", rss);
    }
}

static void print_phases(FILE *to, const char *title, const struct phase *phases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char label[32];
        snprintf(label, sizeof(label), "%.*s", (int)strlen(phases[i].name) - 3, phases[i].name);
        for (char *c = label; *c; c++)
            *c = *c == '_' ? ' ' : *c;
        fprintf(to, "%-11s %-18s %8.2f ms\n", i ? "" : title, label, phases[i].ms);
    }
}

static void print_timings(FILE *to, const Freezepoint__Timings *times)
{
    struct phase phases[PHASES_MAX];
    size_t count = list_phases(times, phases);
    print_phases(to, "timings", phases, count);
}

static void print_frame(FILE *to, const Freezepoint__Frame *frame, size_t index)
{
    fprintf(to, "%-11s %2zu ", index ? "" : "stack", index);
    if (frame->symbol.len) {
        print_bytes(to, &frame->symbol);
        fprintf(to, "+%#" PRIx64, frame->symbol_offset);
    } else {
        fprintf(to, "%#" PRIx64, frame->module.len ? frame->offset : frame->address);
    }
    if (frame->module.len) {
        fputs(" in ", to);
        print_bytes(to, &frame->module);
    }
    fputc('\n', to);
}

static void print_mark(FILE *to, const Freezepoint__Mark *mark)
{
    if (!mark)
        return;
    struct phase phases[PHASES_MAX];
    size_t count = list_kernel_phases(mark, phases);
    print_phases(to, "by kernel", phases, count);
    if (mark->lost)
        fprintf(to, "%-11s %" PRIu64 " marks\n", count ? "" : "by kernel", mark->lost);
    for (size_t i = 0; i < mark->n_stack; i++)
        print_frame(to, mark->stack[i], i);
}

static void print_streams(FILE *to, const Freezepoint__Manifest *manifest)
{
    for (size_t i = 0; i < manifest->n_stdio; i++) {
        const Freezepoint__Stdio *stream = manifest->stdio[i];
        fprintf(to, "%-11s fd %u, %s %s\n", i ? "" : "streams", stream->fd, kind_name(stream->kind),
                stream->key);
    }
    fprintf(to, "preload     ");
    print_bytes(to, &manifest->preload->path);
    fputc('\n', to);
}

void image_print(FILE *to, const struct image *image, const struct image_size *size)
{
    const Freezepoint__Manifest *manifest = image->manifest;
    char created[32], point[600], apparent[32], disk[32];
    text_of_time(manifest->created_unix_ns, created);
    text_of_point(manifest->point, point, sizeof(point));
    text_of_size(size->apparent, apparent);
    text_of_size(size->on_disk, disk);
    fprintf(to, "image       %s@%" PRIu64 "\npath        %s\ncreated     %s\n", manifest->name,
            image->generation, image->path, created);
    fprintf(to, "point       %s, process %u, thread %u (", point, manifest->point->pid,
            manifest->point->tid);
    print_bytes(to, &manifest->point->comm);
    fprintf(to, ")\nprogram     ");
    print_bytes(to, &manifest->command->executable);
    fprintf(to, "\ncommand    ");
    for (size_t i = 0; i < manifest->command->n_argv; i++) {
        fputc(' ', to);
        print_bytes(to, &manifest->command->argv[i]);
    }
    fprintf(to, "\ndirectory   ");
    print_bytes(to, &manifest->command->cwd);
    fprintf(to, "\nsize        %s (%s on disk)\n", apparent, disk);
    print_processes(to, manifest);
    print_streams(to, manifest);
    print_timings(to, manifest->timings);
    print_mark(to, manifest->mark);
    fprintf(to, "made on     %s, Linux %s, CRIU %s, freezepoint %s\n", manifest->host->hostname,
            manifest->host->kernel_release, manifest->criu_version, manifest->freezepoint_version);
}
