#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/detach.h"
#include "cli/say.h"
#include "cli/session.h"
#include "lib/address.h"
#include "lib/fault.h"
#include "lib/fd.h"
#include "lib/fence.h"
#include "lib/hook.h"
#include "lib/log.h"
#include "lib/moving.h"
#include "lib/stream.h"
#include "restore/need.h"
#include "restore/receive.h"

struct receive_options {
    const char *images;
    const char *device;
    const char *before_resume, *after_resume; /* commands, or NULL */
};

static int set(void *context, const char *name, const char *value, struct err *err)
{
    (void)err;
    struct receive_options *options = context;
    if (!strcmp(name, "images"))
        options->images = value;
    else if (!strcmp(name, "device"))
        options->device = value;
    else if (!strcmp(name, "before-resume"))
        options->before_resume = value;
    else if (!strcmp(name, "after-resume"))
        options->after_resume = value;
    return 0;
}

/* What the process in the background has made, for the other one to remove where it is
 * killed before it has a keeper.  Both see it. */
struct trace {
    char draft_of[JOB_NAME_MAX + 1]; /* the image's name; "": there is no draft */
    char job[JOB_NAME_MAX + 1];      /* claimed, maybe with a number behind it */
};

/* What comes of one connection. */
struct arrival {
    const struct receive_options *options;
    struct trace *trace;
    struct detach detach;
    struct stream stream;
    struct moving moving;
    char name[JOB_NAME_MAX + 1];
    struct session session;
    struct fence fence;
    struct received received;
    struct image image;
    struct detached_log log;
    bool lent;    /* its addresses were brought up */
    bool told;    /* the other side knows how it ended */
    bool running; /* the copy does */
};

static void free_message(StreamMessage **message)
{
    if (*message)
        freezepoint__stream__message__free_unpacked(*message, NULL);
}

/* ---- the two processes ---- */

/* While the one in the background is busy, this one says that it lives. */
static void say_alive(void)
{
    struct err ignored;
    StreamMessage message;
    _cleanup_free_ uint8_t *frame = NULL;
    size_t size;
    freezepoint__stream__message__init(&message);
    message.kind = FREEZEPOINT__STREAM__KIND__ALIVE;
    /* Shorter than PIPE_BUF: it does not get into the other's messages (pipe(7)). */
    if (stream_frame(&message, NULL, 0, &frame, &size, &ignored) == 0 &&
        fd_wait(STDOUT_FILENO, POLLOUT, 0) > 0 && write(STDOUT_FILENO, frame, size) < 0)
        return;
}

/* A draft that nobody has locked any more goes when another one is made. */
static void remove_draft(const struct arrival *self, struct err *err)
{
    _cleanup_(store_close) struct store store = STORE_NONE;
    struct image_draft draft = IMAGE_DRAFT_NONE;
    if (store_open(self->options->images, &store, err) == 0 &&
        image_draft_begin(&store, self->trace->draft_of, &draft, err) == 0)
        image_draft_abandon(&draft);
}

/* In the foreground.  A job that has a keeper is still claimed; one that nobody keeps is the
 * first of its names that is free. */
static void remove_traces(void *context)
{
    struct arrival *self = context;
    struct err ignored;
    struct job job;
    if (self->trace->draft_of[0])
        remove_draft(self, &ignored);
    if (self->trace->job[0] && job_create_any(self->trace->job, &job, &ignored) == 0)
        job_destroy(&job, &ignored);
}

static int make_trace(struct arrival *self, struct err *err)
{
    void *shared =
        mmap(NULL, sizeof(*self->trace), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return err_set(err, errno, "mmap");
    self->trace = shared;
    self->detach.abandoned = remove_traces;
    self->detach.context = self;
    return 0;
}

/* The stream moves away from 0 and 1, before they become the background's. */
static int take_stream(struct arrival *self, struct err *err)
{
    int in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    int out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (in < 0 || out < 0)
        return err_set(err, errno, "take the stream from standard input and output");
    return stream_open(&self->stream, in, out, err);
}

/* In the background, where nobody shall print into it. */
static int leave_output(struct err *err)
{
    return dup2(STDIN_FILENO, STDOUT_FILENO) < 0 ? err_set(err, errno, "leave standard output") : 0;
}

static void close_stream(struct arrival *self)
{
    fd_close(&self->stream.in);
    fd_close(&self->stream.out);
    stream_release(&self->stream);
}

/* ---- hello ---- */

static int answer_enquiry(struct arrival *self, struct err *err)
{
    StreamMessage message;
    int outcome = arrival_decide(self->moving.id, OUTCOME_NEVER, err);
    if (outcome < 0)
        return outcome;
    freezepoint__stream__message__init(&message);
    message.kind = FREEZEPOINT__STREAM__KIND__OUTCOME;
    message.outcome = outcome == OUTCOME_RAN ? FREEZEPOINT__STREAM__OUTCOME__OUTCOME_RAN
                                             : FREEZEPOINT__STREAM__OUTCOME__OUTCOME_NEVER;
    self->told = true;
    return stream_send(&self->stream, &message, NULL, 0, err);
}

static int check_hello(struct arrival *self, const Freezepoint__Stream__Hello *hello,
                       struct err *err)
{
    if (!hello || !moving_id_is_valid(hello->id) ||
        (!hello->enquire && !job_name_is_valid(hello->name)))
        return err_text(err, EBADMSG, "the other side began with an odd hello");
    if (hello->version != STREAM_VERSION)
        return err_text(err, ENOTSUP,
                        "the other side speaks version %u of the stream and this freezepoint "
                        "(" FREEZEPOINT_VERSION ") version %u; use the same release on both",
                        hello->version, STREAM_VERSION);
    /* A stream that is said again would make a second copy. */
    if (!hello->enquire && arrival_is_decided(hello->id))
        return err_text(err, EALREADY, "migration %s is over; begin a new one", hello->id);
    snprintf(self->moving.id, sizeof(self->moving.id), "%s", hello->id);
    snprintf(self->name, sizeof(self->name), "%s", hello->name);
    return 0;
}

/* The same addresses, on the interface that they are to have here. */
static int note_addresses(struct arrival *self, const Freezepoint__Stream__Need *need,
                          struct err *err)
{
    for (size_t i = 0; need && i < need->n_addresses; i++) {
        struct moved_address address;
        char text[SOCKET_ADDRESS_TEXT + IFNAMSIZ + 8], host[SOCKET_ADDRESS_TEXT];
        int error = address_parse(need->addresses[i], &address, err);
        if (error)
            return error;
        socket_address_text(&address.address, host);
        snprintf(text, sizeof(text), "%s/%u@%s", host, address.prefix,
                 self->options->device ? self->options->device : address.device);
        error = moving_add_address(&self->moving, text, err);
        if (error)
            return error;
    }
    return 0;
}

/* What this machine lacks is a refusal like those that follow. */
static int refuse_lack(struct arrival *self, const struct err *err)
{
    struct err ignored;
    self->told = err->kind == ERR_LACK && need_refuse(&self->stream, err->text, &ignored) == 0;
    return -err->errnum;
}

/* 1: go on. */
static int greet(struct arrival *self, struct err *err)
{
    _cleanup_(free_message) StreamMessage *message = NULL;
    int error = stream_expect(&self->stream, FREEZEPOINT__STREAM__KIND__HELLO, &message, err);
    if (!error)
        error = check_hello(self, message->hello, err);
    if (error)
        return error;
    if (message->hello->enquire)
        return answer_enquiry(self, err);
    error = note_addresses(self, message->hello->need, err);
    if (!error)
        error = session_begin(&self->session, self->options->images, err);
    if (error)
        return refuse_lack(self, err);
    struct need_place here = {.criu = self->session.criu,
                              .store_path = self->session.store.path,
                              .device = self->options->device};
    size_t refusals = 0;
    error = need_answer(&self->stream, message->hello, &here, &refusals, err);
    if (!error && refusals) {
        self->told = true;
        return err_lack(err, "refused: the other side has been told why");
    }
    return error ? error : 1;
}

/* ---- packets and addresses ---- */

/* CRIU can only restore connections whose address is there, and until the copy runs
 * nobody is to hear of it. */
static int fence_off(struct arrival *self, struct err *err)
{
    if (self->received.place_count == 0)
        return 0;
    int error = self->fence.pid ? 0 : fence_start(self->moving.id, &self->fence, err);
    if (!error)
        error =
            fence_close_off(&self->fence, self->received.places, self->received.place_count, err);
    return error;
}

static void let_go_of_fence(struct arrival *self)
{
    struct err err;
    if (keeper_hold(&self->session.keeper, -1, &err))
        log_warning("receive", "%s", err.text);
    fence_end(&self->fence);
}

static void open_up(struct arrival *self)
{
    struct err err;
    if (self->fence.pid == 0)
        return;
    if (fence_open(&self->fence, &err)) {
        log_warning("receive", "%s", err.text);
        let_go_of_fence(self);
    }
    if (moving_addresses(&self->moving, address_announce, &err))
        log_warning("receive", "%s", err.text);
}

/* After the other side has been told. */
static void keep_addresses(struct arrival *self)
{
    struct err err;
    if (moving_addresses(&self->moving, address_keep, &err))
        say("%s", err.text);
    if (moving_addresses(&self->moving, address_announce, &err))
        say("%s", err.text);
    let_go_of_fence(self);
}

/* Nothing of it runs. */
static void drop_addresses(struct arrival *self)
{
    struct err err;
    if (self->lent && !self->running && moving_addresses(&self->moving, address_remove, &err))
        say("%s", err.text);
    fence_end(&self->fence);
}

/* ---- hooks ---- */

static int run_hook(const struct arrival *self, const char *name, const char *command,
                    const char *runs, struct err *err)
{
    struct hook_facts facts = {.job = self->session.job.name,
                               .side = "target",
                               .runs = runs,
                               .migration = self->moving.id,
                               .addresses = self->moving.addresses};
    return hook_run(name, command, &facts, NULL, NULL, err);
}

/* ---- the copy ---- */

/* From here on the keeper takes the addresses away again, behind the fence, where we are
 * killed. */
static int bring_addresses(void *context, struct err *err)
{
    struct arrival *self = context;
    int error = 0;
    if (self->fence.pid)
        error = keeper_hold(&self->session.keeper, self->fence.socket, err);
    if (error)
        return error;
    self->lent = true;
    return moving_addresses(&self->moving, address_lend, err);
}

static ssize_t count_processes(const struct arrival *self, struct err *err)
{
    _cleanup_free_ pid_t *pids = NULL;
    return cgroup_processes(self->session.job.group.fd, &pids, err);
}

/* That of which something has died does not run on as it was. */
static int check_whole(const struct arrival *self, ssize_t processes, struct err *err)
{
    ssize_t count = count_processes(self, err);
    if (count < 0)
        return (int)count;
    return count == processes ? 0
                              : err_text(err, ESRCH,
                                         "processes of the copy were killed before it "
                                         "ran");
}

static int await_go(void *context, uint64_t restore_ns, struct err *err)
{
    struct arrival *self = context;
    StreamMessage ready;
    _cleanup_(free_message) StreamMessage *message = NULL;
    freezepoint__stream__message__init(&ready);
    ready.kind = FREEZEPOINT__STREAM__KIND__READY;
    ready.restore_ns = restore_ns;
    fault_point("receive:restored");
    int error = run_hook(self, "before-resume", self->options->before_resume, "nowhere", err);
    if (!error)
        error = stream_send(&self->stream, &ready, NULL, 0, err);
    if (!error)
        error = stream_expect(&self->stream, FREEZEPOINT__STREAM__KIND__GO, &message, err);
    fault_point("receive:go");
    if (!error)
        error = check_whole(self, (ssize_t)self->image.manifest->n_processes, err);
    struct err ignored;
    /* Or an enquiry after our end would find it open. */
    int outcome = arrival_decide(self->moving.id, error ? OUTCOME_NEVER : OUTCOME_RAN,
                                 error ? &ignored : err);
    if (error || outcome < 0)
        return error ? error : outcome;
    fault_point("receive:decided");
    if (outcome != OUTCOME_RAN)
        return err_text(err, ECANCELED, "the other side has given this migration up");
    /* First, or the copy's first words would be lost and said again only after a while. */
    open_up(self);
    return 0;
}

/* The copy runs, and the link is not needed any more. */
static void report_running(void *context)
{
    struct arrival *self = context;
    struct err err;
    char line[PATH_MAX + 128];
    fault_point("receive:running");
    self->running = true;
    if (stream_say(&self->stream, FREEZEPOINT__STREAM__KIND__RUNNING, self->session.job.name, &err))
        say("the other side was not told that the program runs here: %s", err.text);
    self->told = true;
    close_stream(self);
    keep_addresses(self);
    arrival_end(self->session.job.runtime_path);
    received_release(&self->received);
    if (run_hook(self, "after-resume", self->options->after_resume, "here", &err))
        say("%s", err.text);
    detached_log_line(&self->log, &self->session, line, sizeof(line));
    if (detach_report(&self->detach, self->log.fd, line, &err))
        say("%s", err.text);
}

/* Its own word for the shim, which no image of this or another store has. */
static uint64_t generation_of(const char *id)
{
    char half[17];
    snprintf(half, sizeof(half), "%.16s", id);
    return strtoull(half, NULL, 16) | 1ULL << 63;
}

static int run_copy(struct arrival *self, int *status, struct err *err)
{
    char label[JOB_NAME_MAX + 32];
    snprintf(label, sizeof(label), "%s (migrated)", self->name);
    int error = image_draft_open(&self->received.draft, label, &self->image, err);
    /* There it may have been numbered. */
    if (!error)
        snprintf(self->trace->job, sizeof(self->trace->job), "%s", self->image.manifest->name);
    if (!error)
        error = session_claim(&self->session, self->image.manifest->name, true, err);
    if (!error)
        error = detached_log_open(&self->log, &self->session, err);
    if (!error)
        error = arrival_begin(self->session.job.runtime_path, &self->moving, err);
    if (error)
        return error;
    struct restored_options options = {
        .then_stop = self->received.then_stop,
        .tcp_given = true,
        .tcp = (enum tcp_mode)self->received.tcp,
        .max_checkpoints = self->received.checkpoints_left,
        .guarded = bring_addresses,
        .held = await_go,
        .held_context = self,
        .generation = generation_of(self->moving.id),
    };
    return session_run_restored(&self->session, &self->image, &options, report_running, self,
                                status, err);
}

static int receive(struct arrival *self, int *status, struct err *err)
{
    int error = leave_output(err);
    if (!error)
        error = greet(self, err);
    if (error <= 0)
        return error;
    detach_tick(&self->detach);
    uint64_t size;
    uint32_t files;
    /* Now, while the job still runs there. */
    error = self->moving.addresses[0] ? fence_start(self->moving.id, &self->fence, err) : 0;
    if (!error)
        error = receive_begin(&self->stream, &self->received, &size, &files, err);
    if (!error)
        error = receive_check_places(&self->received, &self->moving, err);
    if (!error)
        error = fence_off(self, err);
    memcpy(self->trace->draft_of, self->name, sizeof(self->name));
    if (!error)
        error = receive_image(&self->stream, &self->session.store, self->name, size, files,
                              &self->received, err);
    fault_point("receive:image");
    return error ? error : run_copy(self, status, err);
}

static int run(void *context, const struct arguments *arguments, struct err *err)
{
    (void)arguments;
    struct arrival self = {
        .options = context,
        .detach = {.report_fd = -1, .tick = say_alive, .tick_ms = STREAM_BEAT_MS},
        .stream = STREAM_NONE,
        .session = SESSION_NONE,
        .fence = FENCE_NONE,
        .received = RECEIVED_NONE,
        .image = IMAGE_NONE,
        .log = {.fd = -1},
    };
    signal(SIGPIPE, SIG_IGN);
    int error = take_stream(&self, err);
    if (!error)
        error = make_trace(&self, err);
    if (!error)
        error = detach_fork(&self.detach, err);
    if (error)
        return error;
    int status = 0;
    error = receive(&self, &status, err);
    if (error && !self.told) {
        struct err ignored;
        stream_say(&self.stream, FREEZEPOINT__STREAM__KIND__FAILED, err->text, &ignored);
    }
    close_stream(&self);
    drop_addresses(&self);
    image_close(&self.image);
    received_release(&self.received);
    session_end(&self.session);
    if (self.log.fd >= 0 && !error)
        say("the program ended with status %d", status);
    fd_close(&self.log.fd);
    return error ? error : status;
}

static const struct option_spec options[] = {
    {"images", "DIR",
     "where images are kept (default: $FREEZEPOINT_IMAGES or /var/lib/freezepoint)", NULL},
    {"device", "INTERFACE",
     "where addresses that come along are brought up (default: the same "
     "name as there)",
     NULL},
    {"before-resume", "COMMAND", "run when the copy is ready to run; where it fails, it does not",
     NULL},
    {"after-resume", "COMMAND", "run when it does", NULL},
    {0},
};

const struct command cmd_receive = {
    .name = "receive",
    .synopsis = "[OPTION]...",
    .summary = "Take over a job that another host migrates (see migrate)",
    .details = "Spoken to over standard input and output by freezepoint migrate; it is not for "
               "people to run. The program that comes goes on here, supervised in the background "
               "under the name that it had, or NAME.2 ... where that is in use.",
    .options = options,
    .needs = NEEDS_ROOT,
    .arguments_min = 0,
    .arguments_max = 0,
    .set = set,
    .run = run,
    .context_size = sizeof(struct receive_options),
};
