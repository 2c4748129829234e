#include "cli/migrate_text.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/say.h"

#define BAR_WIDTH       30
#define BAR_INTERVAL_NS (100ULL * 1000 * 1000)
/* Lines in a log are to be few. */
#define LINE_INTERVAL_NS (5ULL * 1000 * 1000 * 1000)
#define MS(ns)           ((double)(ns) / 1e6)
#define MB(bytes)        ((double)(bytes) / 1e6)

static const char *const phase_names[MIGRATE_PHASES] = {
    [MIGRATE_REFUSED] = "refused", [MIGRATE_HELLO] = "hello",     [MIGRATE_WAITING] = "waiting",
    [MIGRATE_HELD] = "held",       [MIGRATE_SENDING] = "sending", [MIGRATE_READY] = "ready",
    [MIGRATE_ASKING] = "asking",   [MIGRATE_RUNNING] = "running", [MIGRATE_NOTE] = "note",
};

/* ---- JSON ---- */

static void put_json(struct json_object *object)
{
    printf("%s\n", json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN));
    fflush(stdout);
    json_object_put(object);
}

static void add_number(struct json_object *to, const char *key, uint64_t value)
{
    json_object_object_add(to, key, json_object_new_int64((int64_t)value));
}

static void add_text(struct json_object *to, const char *key, const char *value)
{
    json_object_object_add(to, key, json_object_new_string(value));
}

static void event_json(const struct migrate_text *text, const struct migrate_event *event)
{
    struct json_object *object = json_object_new_object();
    add_text(object, "event", phase_names[event->phase]);
    add_text(object, "job", text->job);
    add_number(object, "since_ns", event->since_ns);
    if (event->text)
        add_text(object, "text", event->text);
    if (event->phase == MIGRATE_SENDING) {
        add_number(object, "done_bytes", event->done);
        add_number(object, "total_bytes", event->total);
    }
    put_json(object);
}

static void end_json(const struct migrate_text *text, const struct migrated *done, int error,
                     const struct err *err)
{
    struct json_object *object = json_object_new_object();
    add_text(object, "event", error ? "failed" : "migrated");
    add_text(object, "job", text->job);
    add_text(object, "migration", done->id);
    if (error) {
        add_text(object, "text", err->text);
        put_json(object);
        return;
    }
    add_text(object, "name_there", done->name);
    add_number(object, "stood_ns", done->stood_ns);
    add_number(object, "dump_ns", done->dump_ns);
    add_number(object, "send_ns", done->send_ns);
    add_number(object, "restore_ns", done->restore_ns);
    add_number(object, "total_ns", done->total_ns);
    add_number(object, "image_bytes", done->size);
    add_number(object, "compressed_bytes", done->packed);
    add_number(object, "sent_bytes", done->sent);
    put_json(object);
}

/* ---- for people ---- */

static void clear_bar(struct migrate_text *text)
{
    if (text->drawn)
        fputs("\r\033[K", stderr);
    text->drawn = false;
}

static void show_progress(struct migrate_text *text, const struct migrate_event *event)
{
    uint64_t interval = text->terminal ? BAR_INTERVAL_NS : LINE_INTERVAL_NS;
    if (text->sending_ns == 0)
        text->sending_ns = text->last_ns = event->since_ns;
    if (event->since_ns - text->last_ns < interval || event->total == 0)
        return;
    text->last_ns = event->since_ns;
    double seconds = (double)(event->since_ns - text->sending_ns) / 1e9;
    double rate = (double)event->done / seconds;
    double left = (double)(event->total - event->done) / rate;
    double part = (double)event->done / (double)event->total;
    if (!text->terminal) {
        say("%s: %.0f of %.0f MB sent, %.0f MB/s, %.0f s left", text->job, MB(event->done),
            MB(event->total), rate / 1e6, left);
        return;
    }
    char bar[BAR_WIDTH + 1];
    memset(bar, ' ', BAR_WIDTH);
    memset(bar, '#', (size_t)(part * BAR_WIDTH));
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r\033[K%s  [%s] %3.0f %%  %.0f of %.0f MB  %.0f MB/s  %.0f s left", text->job,
            bar, part * 100, MB(event->done), MB(event->total), rate / 1e6, left);
    text->drawn = true;
}

void migrate_text_begin(struct migrate_text *text)
{
    text->terminal = !text->json && isatty(STDERR_FILENO);
}

void migrate_text_event(void *context, const struct migrate_event *event)
{
    struct migrate_text *text = context;
    if (text->json) {
        event_json(text, event);
        return;
    }
    if (event->phase == MIGRATE_SENDING) {
        show_progress(text, event);
        return;
    }
    clear_bar(text);
    switch (event->phase) {
    case MIGRATE_REFUSED:
        say("the other side refuses: %s", event->text);
        break;
    case MIGRATE_WAITING:
        say("waiting for the next point of %s", text->job);
        break;
    case MIGRATE_ASKING:
        say("%s; asking the other side whether the copy runs", event->text);
        break;
    case MIGRATE_NOTE:
        say("%s", event->text);
        break;
    default:
        break;
    }
}

void migrate_text_end(struct migrate_text *text, const struct migrated *done, int error,
                      const struct err *err)
{
    clear_bar(text);
    if (text->json)
        end_json(text, done, error, err);
    else if (!error)
        say("migrated %s: it runs there%s%s; it stood for %.1f ms (dump %.1f, sending %.1f, "
            "restore %.1f), %.1f MB sent",
            text->job, done->name[0] ? " as " : "", done->name, MS(done->stood_ns),
            MS(done->dump_ns), MS(done->send_ns), MS(done->restore_ns), MB(done->sent));
}
