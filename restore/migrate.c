#include "restore/migrate.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/criu.h"
#include "lib/fault.h"
#include "lib/fd.h"
#include "lib/hook.h"
#include "lib/proc.h"
#include "lib/request.h"
#include "lib/stream.h"
#include "lib/via.h"
#include "restore/need.h"
#include "restore/refusal.h"
#include "restore/send.h"

/* The supervisor has bounds of its own for all that it does. */
#define HOLD_TIMEOUT_MS   (10 * 60 * 1000)
#define SETTLE_TIMEOUT_MS (60 * 1000)
/* How long the other side is asked, where the link was cut at the worst moment, before
 * that is left to the supervisor. */
#define ASK_TIMES    5
#define ASK_AGAIN_MS 1000
/* Of a side that has ended; signs of life may stand before them. */
#define LAST_WORDS_MAX 16
#define LAST_WORDS_MS  200

/* One migration. */
struct migration {
    const struct migrate_request *request;
    struct moving moving;
    struct via via;
    struct stream stream;
    int supervisor;   /* our connection to it */
    bool in_doubt;    /* it cannot be called off any more */
    uint64_t beat_ns; /* when both sides last heard that we live */
    uint64_t begun_ns, sent_ns, running_ns;
    Freezepoint__Reply *held;
    struct sent sent;
    struct migrated *out;
};

__attribute__((format(printf, 3, 4))) static void
tell(const struct migration *self, enum migrate_phase phase, const char *format, ...)
{
    char text[1200];
    struct migrate_event event = {.phase = phase,
                                  .since_ns = proc_monotonic_ns() - self->begun_ns,
                                  .text = format ? text : NULL};
    if (format) {
        va_list args;
        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        err_make_printable(text);
    }
    self->request->tell(self->request->context, &event);
}

static void free_message(StreamMessage **message)
{
    if (*message)
        freezepoint__stream__message__free_unpacked(*message, NULL);
}

static void free_reply(Freezepoint__Reply **reply)
{
    if (*reply)
        freezepoint__reply__free_unpacked(*reply, NULL);
}

/* ---- both sides ---- */

/* What the supervisor says unasked is that it is over. */
static int check_supervisor(struct migration *self, int timeout_ms, Freezepoint__Reply **out,
                            struct err *err)
{
    Freezepoint__Reply *reply = NULL;
    int error = reply_receive(self->supervisor, timeout_ms, &reply, err);
    if (error)
        return error;
    if (reply->kind == FREEZEPOINT__REPLY_KIND__REPLY_REFUSED ||
        reply->kind == FREEZEPOINT__REPLY_KIND__REPLY_RELEASED) {
        err_text(err, ECANCELED, "%s", reply->text);
        freezepoint__reply__free_unpacked(reply, NULL);
        return -ECANCELED;
    }
    *out = reply;
    return 0;
}

/* Where it is gone it may have said why. */
static int hear_why(struct migration *self, struct err *err)
{
    _cleanup_(free_reply) Freezepoint__Reply *reply = NULL;
    int error = check_supervisor(self, 0, &reply, err);
    return error ? error : err_text(err, EPIPE, "the job's supervisor is gone");
}

static int ask_for(struct migration *self, Freezepoint__RequestKind kind, const char *text,
                   struct err *err)
{
    Freezepoint__Request message;
    freezepoint__request__init(&message);
    message.kind = kind;
    message.text = (char *)text;
    int error = request_send(self->supervisor, &message, err);
    return error == -EPIPE ? hear_why(self, err) : error;
}

static int beat(struct migration *self, struct err *err)
{
    uint64_t now = proc_monotonic_ns();
    if (*self->request->interrupted && !self->in_doubt)
        return err_text(err, ECANCELED, "interrupted");
    if (now - self->beat_ns < STREAM_BEAT_MS * 1000000ULL)
        return 0;
    self->beat_ns = now;
    int error = stream_say(&self->stream, FREEZEPOINT__STREAM__KIND__ALIVE, NULL, err);
    if (!error && self->supervisor >= 0)
        error = ask_for(self, FREEZEPOINT__REQUEST_KIND__REQUEST_ALIVE, NULL, err);
    return error;
}

static int timed_out(const struct migration *self, struct err *err)
{
    if (self->request->next_point && !self->held)
        return err_text(err, ETIMEDOUT, "no point of job '%s' was due in that time",
                        self->request->job);
    return err_text(err, ETIMEDOUT, "the supervisor of job '%s' does not answer",
                    self->request->job);
}

/* The supervisor's next word but WAITING, while the other side is kept awake. */
static int await_supervisor(struct migration *self, Freezepoint__ReplyKind kind, int limit_ms,
                            Freezepoint__Reply **out, struct err *err)
{
    for (uint64_t begun = proc_monotonic_ns();;) {
        Freezepoint__Reply *reply = NULL;
        int error = check_supervisor(self, STREAM_BEAT_MS / 2, &reply, err);
        if (!error && reply->kind == kind) {
            *out = reply;
            return 0;
        }
        bool waits = !error && reply->kind == FREEZEPOINT__REPLY_KIND__REPLY_WAITING;
        if (reply)
            freezepoint__reply__free_unpacked(reply, NULL);
        if (waits) {
            tell(self, MIGRATE_WAITING, NULL);
            limit_ms = self->request->timeout_ms ? self->request->timeout_ms : INT_MAX;
        } else if (!error) {
            return err_text(err, EPROTO, "the supervisor said something odd");
        } else if (error != -ETIMEDOUT) {
            return error;
        }
        if ((proc_monotonic_ns() - begun) / 1000000 > (uint64_t)limit_ms)
            return timed_out(self, err);
        error = beat(self, err);
        if (error)
            return error;
    }
}

/* The other side's next word, while the supervisor is kept awake. */
static int await_target(struct migration *self, Freezepoint__Stream__Kind kind, StreamMessage **out,
                        struct err *err)
{
    uint64_t heard = self->stream.received, since = proc_monotonic_ns();
    for (;;) {
        StreamMessage *message = NULL;
        int error = stream_poll(&self->stream, STREAM_BEAT_MS / 2, &message, err);
        if (error)
            return error;
        if (message && message->kind == kind) {
            *out = message;
            return 0;
        }
        if (message && message->kind == FREEZEPOINT__STREAM__KIND__FAILED)
            error = err_text(err, ECANCELED, "the other side failed: %s", message->text);
        else if (message && message->kind != FREEZEPOINT__STREAM__KIND__ALIVE)
            error = err_text(err, EPROTO, "the other side said something unexpected");
        if (message)
            freezepoint__stream__message__free_unpacked(message, NULL);
        if (self->stream.received != heard) {
            heard = self->stream.received;
            since = proc_monotonic_ns();
        }
        if (!error && proc_monotonic_ns() - since > STREAM_QUIET_MS * 1000000ULL)
            error = err_text(err, ETIMEDOUT, "the other side has been quiet for %d s",
                             STREAM_QUIET_MS / 1000);
        if (!error)
            error = beat(self, err);
        if (error)
            return error;
    }
}

/* Where the other side has ended while it was told something, it has said why before. */
static int hear_other_side(struct migration *self, int error, struct err *err)
{
    StreamMessage *message = NULL;
    struct err ignored;
    for (int i = 0; i < LAST_WORDS_MAX && error == -EPIPE; i++) {
        if (stream_poll(&self->stream, LAST_WORDS_MS, &message, &ignored) || !message)
            break;
        if (message->kind == FREEZEPOINT__STREAM__KIND__FAILED)
            error = err_text(err, ECANCELED, "the other side failed: %s", message->text);
        freezepoint__stream__message__free_unpacked(message, NULL);
    }
    return error;
}

/* ---- step by step ---- */

static int ask_needs(struct migration *self, const char *criu, StreamMessage **answer,
                     struct err *err)
{
    const struct migrate_request *request = self->request;
    struct need_request need = {.job = request->job,
                                .id = self->moving.id,
                                .criu = criu,
                                .addresses = request->addresses,
                                .hooks = request->before_freeze || request->after_freeze};
    return need_ask(&self->stream, &need, answer, err);
}

static int say_hello(struct migration *self, struct err *err)
{
    char criu[PATH_MAX];
    _cleanup_(free_message) StreamMessage *answer = NULL;
    int error = criu_locate(criu, sizeof(criu), err);
    if (!error)
        error = via_open(self->moving.via, &self->via, err);
    if (!error)
        error = stream_open(&self->stream, self->via.in, self->via.out, err);
    if (!error)
        error = ask_needs(self, criu, &answer, err);
    if (error)
        return error;
    for (size_t i = 0; i < answer->hello->n_refusals && i <= REFUSALS_MAX; i++)
        tell(self, MIGRATE_REFUSED, "%s", answer->hello->refusals[i]);
    if (answer->hello->n_refusals)
        return err_lack(err, "it cannot go there; nothing was stopped");
    const Freezepoint__Stream__Machine *there = answer->hello->machine;
    tell(self, MIGRATE_HELLO, "%.255s", there ? there->hostname : "");
    return 0;
}

static int hold(struct migration *self, struct err *err)
{
    Freezepoint__Request message;
    freezepoint__request__init(&message);
    message.kind = FREEZEPOINT__REQUEST_KIND__REQUEST_HOLD;
    message.id = self->moving.id;
    message.via =
        (ProtobufCBinaryData){.len = strlen(self->moving.via), .data = (uint8_t *)self->moving.via};
    message.next_point = self->request->next_point;
    message.addresses = (char **)self->request->addresses;
    while (message.addresses[message.n_addresses])
        message.n_addresses++;
    int error = request_send(self->supervisor, &message, err);
    if (!error)
        error = await_supervisor(self, FREEZEPOINT__REPLY_KIND__REPLY_HELD, HOLD_TIMEOUT_MS,
                                 &self->held, err);
    if (!error)
        tell(self, MIGRATE_HELD, NULL);
    return error;
}

static int note_progress(void *context, uint64_t done, uint64_t total, struct err *err)
{
    struct migration *self = context;
    struct migrate_event event = {.phase = MIGRATE_SENDING,
                                  .since_ns = proc_monotonic_ns() - self->begun_ns,
                                  .done = done,
                                  .total = total};
    self->request->tell(self->request->context, &event);
    return beat(self, err);
}

static int send_copy(struct migration *self, struct err *err)
{
    char path[PATH_MAX];
    _cleanup_(free_message) StreamMessage *ready = NULL;
    snprintf(path, sizeof(path), "%.*s", (int)self->held->path.len,
             (const char *)self->held->path.data);
    struct send_request sending = {
        .path = path,
        .then_stop = self->held->then_stop,
        .tcp = self->held->tcp,
        .checkpoints_left = self->held->checkpoints_left,
        .places = self->held->places,
        .place_count = self->held->n_places,
        .progress = note_progress,
        .context = self,
    };
    int error = send_image(&self->stream, &sending, &self->sent, err);
    self->sent_ns = proc_monotonic_ns();
    fault_point("migrate:sent");
    if (!error)
        error = await_target(self, FREEZEPOINT__STREAM__KIND__READY, &ready, err);
    if (error)
        return error;
    self->out->restore_ns = ready->restore_ns;
    tell(self, MIGRATE_READY, NULL);
    return 0;
}

/* From here on only the other side knows. */
static int ask_outcome(struct migration *self, struct err *err)
{
    tell(self, MIGRATE_ASKING, "%s", err->text);
    stream_release(&self->stream);
    via_close(&self->via);
    for (int i = 0; i < ASK_TIMES; i++) {
        struct err ignored;
        ask_for(self, FREEZEPOINT__REQUEST_KIND__REQUEST_ALIVE, NULL, &ignored);
        int outcome = moving_ask(&self->moving, err);
        if (outcome == OUTCOME_RAN)
            return 0;
        if (outcome == OUTCOME_NEVER)
            return err_text(err, ECANCELED, "the other side was cut off before it ran the copy");
        nanosleep(&(struct timespec){.tv_sec = ASK_AGAIN_MS / 1000}, NULL);
    }
    return err_text(err, EINPROGRESS,
                    "it is not known whether the copy runs; the job stands until its supervisor "
                    "has found out");
}

static int run_copy(struct migration *self, struct err *err)
{
    _cleanup_(free_reply) Freezepoint__Reply *doubted = NULL;
    _cleanup_(free_message) StreamMessage *running = NULL;
    int error = ask_for(self, FREEZEPOINT__REQUEST_KIND__REQUEST_DOUBT, NULL, err);
    if (!error)
        error = await_supervisor(self, FREEZEPOINT__REPLY_KIND__REPLY_DOUBTED, SETTLE_TIMEOUT_MS,
                                 &doubted, err);
    if (error)
        return error;
    self->in_doubt = true;
    fault_point("migrate:go");
    error = stream_say(&self->stream, FREEZEPOINT__STREAM__KIND__GO, NULL, err);
    if (!error)
        error = await_target(self, FREEZEPOINT__STREAM__KIND__RUNNING, &running, err);
    self->running_ns = proc_monotonic_ns();
    fault_point("migrate:told");
    if (!error)
        snprintf(self->out->name, sizeof(self->out->name), "%s",
                 job_name_is_valid(running->text) ? running->text : "");
    else if (error != -ECANCELED)
        error = ask_outcome(self, err);
    if (!error)
        tell(self, MIGRATE_RUNNING, "%s", self->out->name);
    return error;
}

static int settle(struct migration *self, int error, struct err *err)
{
    struct err why;
    _cleanup_(free_reply) Freezepoint__Reply *reply = NULL;
    if (error == -EINPROGRESS)
        return error;
    int failed = ask_for(self,
                         error ? FREEZEPOINT__REQUEST_KIND__REQUEST_RELEASE
                               : FREEZEPOINT__REQUEST_KIND__REQUEST_GONE,
                         error ? err->text : NULL, &why);
    for (;;) {
        if (!failed)
            failed = reply_receive(self->supervisor, SETTLE_TIMEOUT_MS, &reply, &why);
        if (failed || reply->kind == FREEZEPOINT__REPLY_KIND__REPLY_ENDED ||
            reply->kind == FREEZEPOINT__REPLY_KIND__REPLY_RELEASED)
            break;
        freezepoint__reply__free_unpacked(reply, NULL);
        reply = NULL;
    }
    if (failed && !error)
        tell(self, MIGRATE_NOTE, "its former supervisor does not answer: %s", why.text);
    return error;
}

/* ---- hooks ---- */

static int beat_for_hook(void *context, struct err *err)
{
    return beat(context, err);
}

static int run_hook(struct migration *self, const char *name, const char *command, const char *runs,
                    struct err *err)
{
    struct hook_facts facts = {.job = self->request->job,
                               .side = "source",
                               .runs = runs,
                               .migration = self->moving.id,
                               .addresses = self->moving.addresses};
    return hook_run(name, command, &facts, beat_for_hook, self, err);
}

/* ---- the whole ---- */

static void put_quoted(FILE *to, const char *text)
{
    fputc('\'', to);
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\'", to);
        fputc(*text, to);
    }
    fputc('\'', to);
}

/* The supervisor, or the keeper, may have to run it in our place, to ask how it ended. */
static int note_command(struct migration *self, struct err *err)
{
    static const char *const variables[] = {"PATH", "HOME", "SSH_AUTH_SOCK", "FREEZEPOINT_IMAGES"};
    _cleanup_free_ char *cwd = getcwd(NULL, 0);
    FILE *to = fmemopen(self->moving.via, sizeof(self->moving.via) - 1, "w");
    if (!cwd || !to) {
        int errnum = errno;
        if (to)
            fclose(to);
        return err_set(err, errnum, "note the command of --via");
    }
    setvbuf(to, NULL, _IONBF, 0);
    fputs("cd ", to);
    put_quoted(to, cwd);
    fputs(" || exit\n", to);
    for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++) {
        const char *value = getenv(variables[i]);
        if (!value)
            continue;
        fprintf(to, "export %s=", variables[i]);
        put_quoted(to, value);
        fputc('\n', to);
    }
    bool whole = fputs(self->request->via, to) >= 0 && !ferror(to);
    fclose(to);
    return whole ? 0 : err_usage(err, "--via: the command is too long");
}

static int move_held(struct migration *self, struct err *err)
{
    const struct migrate_request *request = self->request;
    int error = run_hook(self, "after-freeze", request->after_freeze, "nowhere", err);
    if (!error)
        error = hear_other_side(self, send_copy(self, err), err);
    fault_point("migrate:ready");
    if (!error)
        error = run_hook(self, "before-resume", request->before_resume, "nowhere", err);
    return error ? error : run_copy(self, err);
}

static int move(struct migration *self, struct err *err)
{
    int error = say_hello(self, err);
    if (error)
        return error;
    error = run_hook(self, "before-freeze", self->request->before_freeze, "here", err);
    if (error)
        return error;
    /* Only now: it does not wait long for what is wanted. */
    self->supervisor = request_connect(self->request->job, err);
    if (self->supervisor < 0)
        return self->supervisor;
    error = hear_other_side(self, hold(self, err), err);
    fault_point("migrate:hold");
    if (!self->held)
        return error;
    error = settle(self, move_held(self, err), err);
    /* It is known where it runs, and that is told here, too. */
    struct err why;
    if (error != -EINPROGRESS &&
        run_hook(self, "after-resume", self->request->after_resume, error ? "here" : "there", &why))
        tell(self, MIGRATE_NOTE, "%s", why.text);
    return error;
}

static void take_figures(struct migration *self)
{
    struct migrated *out = self->out;
    const Freezepoint__Reply *held = self->held;
    out->stood_ns = self->running_ns - held->frozen_ns;
    out->dump_ns = held->dumped_ns - held->frozen_ns;
    out->send_ns = self->sent_ns - held->dumped_ns;
    out->total_ns = proc_monotonic_ns() - self->begun_ns;
    out->size = self->sent.size;
    out->packed = self->sent.packed;
    out->sent = self->stream.sent;
}

int migrate(const struct migrate_request *request, struct migrated *out, struct err *err)
{
    static const char *const none[] = {NULL};
    struct migrate_request whole = *request;
    whole.addresses = request->addresses ? request->addresses : none;
    struct migration self = {.request = &whole,
                             .via = VIA_NONE,
                             .stream = STREAM_NONE,
                             .supervisor = -1,
                             .begun_ns = proc_monotonic_ns(),
                             .out = out};
    *out = (struct migrated){.id = ""};
    int error = note_command(&self, err);
    if (!error)
        error = moving_make_id(self.moving.id, err);
    for (size_t i = 0; whole.addresses[i] && !error; i++)
        error = moving_add_address(&self.moving, whole.addresses[i], err);
    memcpy(out->id, self.moving.id, sizeof(out->id));
    if (!error)
        error = move(&self, err);
    if (error && self.stream.out >= 0 && error != -EPIPE) {
        struct err ignored;
        stream_say(&self.stream, FREEZEPOINT__STREAM__KIND__CANCEL, err->text, &ignored);
    }
    if (!error)
        take_figures(&self);
    if (self.held)
        freezepoint__reply__free_unpacked(self.held, NULL);
    fd_close(&self.supervisor);
    stream_release(&self.stream);
    via_close(&self.via);
    return error;
}
