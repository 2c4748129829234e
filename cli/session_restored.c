/* The part of a session that begins with an image. */
#include "cli/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/image_text.h"
#include "cli/say.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "restore/restore.h"
#include "trigger/point.h"
#include "trigger/uprobes.h"

#define FREEZE_TIMEOUT_MS (10 * 1000)

/* A supervision made of a manifest; everything here outlives it. */
struct from_image {
    struct supervised_point *points;
    const char **argv;
    char **texts; /* owned: NUL-terminated copies of the manifest's bytes */
    size_t text_count, text_capacity;
    struct uprobes *probes; /* until they are supervised */
};

static void release_from_image(struct from_image *self)
{
    uprobes_release(self->probes);
    for (size_t i = 0; i < self->text_count; i++)
        free(self->texts[i]);
    free(self->texts);
    free(self->argv);
    free(self->points);
}

static const char *text_of(struct from_image *self, const ProtobufCBinaryData *bytes)
{
    if (self->text_count == self->text_capacity)
        return "";
    char *text = strndup(bytes->data ? (const char *)bytes->data : "", bytes->len);
    if (text)
        self->texts[self->text_count++] = text;
    return text ? text : "";
}

static int copy_manifest(const Freezepoint__Manifest *manifest, struct from_image *out,
                         struct err *err)
{
    size_t argc = manifest->command->n_argv, points = manifest->n_points;
    out->text_capacity = argc + points + 3;
    out->texts = calloc(out->text_capacity, sizeof(*out->texts));
    out->argv = calloc(argc + 1, sizeof(*out->argv));
    out->points = calloc(points + 1, sizeof(*out->points));
    if (!out->texts || !out->argv || !out->points)
        return err_set(err, ENOMEM, "image");
    for (size_t i = 0; i < argc; i++)
        out->argv[i] = text_of(out, &manifest->command->argv[i]);
    for (size_t i = 0; i < points; i++) {
        const Freezepoint__Rule *rule = manifest->points[i];
        out->points[i] = (struct supervised_point){.spec = rule->spec,
                                                   .library = text_of(out, &rule->library),
                                                   .function = rule->function,
                                                   .first = rule->first,
                                                   .every = rule->every,
                                                   .done = rule->done,
                                                   .hits = rule->hits};
    }
    return 0;
}

static enum tcp_mode tcp_of(const Freezepoint__Manifest *manifest,
                            const struct restored_options *options)
{
    if (options->tcp_given)
        return options->tcp;
    switch (manifest->tcp) {
    case FREEZEPOINT__TCP_MODE__TCP_ESTABLISHED:
        return TCP_MODE_ESTABLISHED;
    case FREEZEPOINT__TCP_MODE__TCP_CLOSE:
        return TCP_MODE_CLOSE;
    default:
        return TCP_MODE_NONE;
    }
}

static int supervise_restored(struct session *session, const struct image *image,
                              const struct restored_options *options,
                              const struct restored *restored, struct from_image *from, int *status,
                              struct err *err)
{
    const Freezepoint__Manifest *manifest = image->manifest;
    struct uprobes *probes = steal_pointer(&from->probes);
    struct supervision job = {
        .job = &session->job,
        .keeper = &session->keeper,
        .store = &session->store,
        .image_name = manifest->name,
        .restored_from = image->label,
        .restored_generation = options->generation ? 0 : image->generation,
        .criu = session->criu,
        .criu_log_level = session->criu_log_level,
        .points = from->points,
        .point_count = manifest->n_points,
        .probes = probes,
        .max_checkpoints = options->max_checkpoints,
        .then_stop = options->then_stop,
        .tcp = tcp_of(manifest, options),
        .argv = from->argv,
        .executable = text_of(from, &manifest->command->executable),
        .cwd = text_of(from, &manifest->command->cwd),
        .preload_path = text_of(from, &manifest->preload->path),
        .preload_bytes = restored->preload_bytes,
        .preload_size = restored->preload_size,
        .control_offset = manifest->preload->control_offset,
        .streams = session->plan.streams,
        .child = restored->init.pid,
        .child_pidfd = restored->init.pidfd,
        .root = restored->root,
        .root_pidfd = restored->root_pidfd,
        .init = restored->init.pid,
        .init_socket = restored->init.socket,
        .restorer = restored->init.worker.pidfd,
        .listener = -1,
        .say = say_line,
    };
    return session_supervise(session, &job, status, err);
}

static int plan_streams(struct session *session, const Freezepoint__Manifest *manifest,
                        struct err *err)
{
    struct stdio_stream image[3] = {0};
    for (size_t i = 0; i < manifest->n_stdio; i++) {
        const Freezepoint__Stdio *stream = manifest->stdio[i];
        if (stream->fd > 2)
            continue;
        struct stdio_stream *to = &image[stream->fd];
        to->kind = stream->kind == FREEZEPOINT__STDIO_KIND__STDIO_PIPE  ? STDIO_PIPE
                   : stream->kind == FREEZEPOINT__STDIO_KIND__STDIO_TTY ? STDIO_TTY
                                                                        : STDIO_UNUSED;
        snprintf(to->key, sizeof(to->key), "%s", stream->key);
    }
    return stdio_plan_for_restore(image, session->outer, &session->plan, err);
}

/* Nothing of it runs: streams as they were, but without the keeper, which has not
 * begun to read. */
static void undo_start(struct session *session)
{
    struct err ignored;
    keeper_finish(&session->keeper, &ignored);
    stdio_plan_release(&session->plan);
    session->plan = STDIO_PLAN_NONE;
    struct err err;
    if (job_renew_group(&session->job, &err))
        log_warning("job", "%s", err.text);
}

struct placing {
    struct session *session;
    struct from_image *from;
    size_t point_count;
};

/* A restored program shall run, with its probes or without. */
static void set_probes(void *context)
{
    const struct placing *placing = context;
    struct err err;
    if (session_start_probes(placing->session, placing->from->points, placing->point_count,
                             &placing->from->probes, &err))
        say("no further checkpoint at a probe: %s", err.text);
}

static bool had_probes(const Freezepoint__Manifest *manifest)
{
    for (size_t i = 0; i < manifest->n_points; i++)
        if (point_is_probe(manifest->points[i]->spec))
            return true;
    return false;
}

/* The tree is complete, and does not run before others have agreed. */
static int hold(const struct session *session, const struct restored_options *options,
                const struct restored *restored, struct err *err)
{
    int group_fd = session->job.group.fd;
    int error = cgroup_wait_frozen(group_fd, true, FREEZE_TIMEOUT_MS, err);
    if (!error)
        error = options->held(options->held_context, restored->verify_ns + restored->criu_ns, err);
    return error ? error : cgroup_write_freeze(group_fd, false, err);
}

static void say_restored(const struct image *image, const struct restored *restored)
{
    char point[600];
    text_of_point(image->manifest->point, point, sizeof(point));
    say("restored %s, taken at %s (%.1f ms)", image->label, point,
        (double)(restored->verify_ns + restored->criu_ns) / 1e6);
}

int session_run_restored(struct session *session, const struct image *image,
                         const struct restored_options *options, void (*started)(void *context),
                         void *context, int *status, struct err *err)
{
    struct restored restored = RESTORED_NONE;
    struct from_image from = {0};
    struct placing placing = {
        .session = session, .from = &from, .point_count = image->manifest->n_points};
    int error = plan_streams(session, image->manifest, err);
    if (!error)
        error = copy_manifest(image->manifest, &from, err);
    if (!error && had_probes(image->manifest))
        error = session_allow_probes(session, err);
    struct restore_request request = {
        .image = image,
        .criu = session->criu,
        .criu_log_level = session->criu_log_level,
        .job = &session->job,
        .keeper = &session->keeper,
        .plan = &session->plan,
        .tcp_close = options->tcp_given && options->tcp == TCP_MODE_CLOSE,
        .criu_config = session->criu_config[0] ? session->criu_config : NULL,
        .generation = options->generation,
        .frozen = options->held != NULL,
        .fenced = options->held != NULL,
        .placed = set_probes,
        .context = &placing,
    };
    if (!error)
        error = restore_begin(&request, &restored, err);
    if (!error)
        error = session_start_keeper(session, err);
    if (!error && options->guarded)
        error = options->guarded(options->held_context, err);
    if (!error)
        error = restore_image(&request, &restored, err);
    if (!error && options->held)
        error = hold(session, options, &restored, err);
    if (error) {
        release_from_image(&from);
        restore_abandon(&restored);
        undo_start(session);
        return error;
    }
    if (!options->held)
        say_restored(image, &restored);
    if (started)
        started(context);
    error = supervise_restored(session, image, options, &restored, &from, status, err);
    release_from_image(&from);
    restored_release(&restored);
    if (error)
        say("%s", err->text);
    return 0;
}
