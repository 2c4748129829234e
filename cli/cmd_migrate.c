#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/say.h"
#include "lib/criu.h"
#include "lib/fault.h"
#include "lib/fd.h"
#include "lib/moving.h"
#include "lib/proc.h"
#include "lib/request.h"
#include "lib/stream.h"
#include "lib/via.h"
#include "restore/need.h"
#include "restore/send.h"

/* The supervisor has bounds of its own for all that it does. */
#define HOLD_TIMEOUT_MS   (10 * 60 * 1000)
#define SETTLE_TIMEOUT_MS (60 * 1000)
/* How long the other side is asked, where the link was cut at the worst moment, before
 * that is left to the supervisor. */
#define ASK_TIMES    5
#define ASK_AGAIN_MS 1000

#define ADDRESSES_MAX 8

struct migrate_options {
    const char *via;
    bool next_point;
    const char *addresses[ADDRESSES_MAX + 1]; /* NULL-terminated */
    size_t address_count;
};

static int set(void *context, const char *name, const char *value, struct err *err)
{
    struct migrate_options *options = context;
    if (!strcmp(name, "via")) {
        options->via = value;
    } else if (!strcmp(name, "move-address")) {
        struct moved_address ignored;
        if (options->address_count == ADDRESSES_MAX)
            return err_usage(err, "more than %d --move-address cannot be had", ADDRESSES_MAX);
        options->addresses[options->address_count++] = value;
        return address_parse(value, &ignored, err);
    } else if (!strcmp(name, "at")) {
        options->next_point = !strcmp(value, "next");
    }
    return 0;
}

/* One migration. */
struct migration {
    const struct migrate_options *options;
    const char *job;
    struct moving moving;
    struct via via;
    struct stream stream;
    int supervisor;   /* our connection to it */
    uint64_t beat_ns; /* when both sides last heard that we live */
    Freezepoint__Reply *held;
    struct sent sent;
    uint64_t begun_ns, running_ns, restore_ns;
    char name_there[JOB_NAME_MAX + 1];
};

static volatile sig_atomic_t interrupted;

static void note_interrupt(int number)
{
    interrupted = number;
}

/* Up to the moment when the other side is told to run the copy. */
static void catch_signals(bool wanted)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    struct sigaction action = {.sa_handler = wanted ? note_interrupt : SIG_IGN};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        sigaction(numbers[i], &action, NULL);
    signal(SIGPIPE, SIG_IGN);
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

static int request(struct migration *self, Freezepoint__RequestKind kind, const char *text,
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
    if (interrupted)
        return err_text(err, ECANCELED, "interrupted");
    if (now - self->beat_ns < STREAM_BEAT_MS * 1000000ULL)
        return 0;
    self->beat_ns = now;
    int error = stream_say(&self->stream, FREEZEPOINT__STREAM__KIND__ALIVE, NULL, err);
    if (!error && self->supervisor >= 0)
        error = request(self, FREEZEPOINT__REQUEST_KIND__REQUEST_ALIVE, NULL, err);
    return error;
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
            say("waiting for the next point of %s", self->job);
            limit_ms = INT_MAX;
        } else if (!error) {
            return err_text(err, EPROTO, "the supervisor said something odd");
        } else if (error != -ETIMEDOUT) {
            return error;
        }
        if ((proc_monotonic_ns() - begun) / 1000000 > (uint64_t)limit_ms)
            return err_text(err, ETIMEDOUT, "the supervisor of job '%s' does not answer",
                            self->job);
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

/* ---- step by step ---- */

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
        error = need_ask(&self->stream, self->job, self->moving.id, criu, self->options->addresses,
                         &answer, err);
    if (error)
        return error;
    for (size_t i = 0; i < answer->hello->n_refusals; i++)
        say("the other side refuses: %s", answer->hello->refusals[i]);
    if (answer->hello->n_refusals)
        return err_lack(err, "job '%s' cannot go there; nothing was stopped", self->job);
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
    message.next_point = self->options->next_point;
    message.addresses = (char **)self->options->addresses;
    message.n_addresses = self->options->address_count;
    int error = request_send(self->supervisor, &message, err);
    return error ? error
                 : await_supervisor(self, FREEZEPOINT__REPLY_KIND__REPLY_HELD, HOLD_TIMEOUT_MS,
                                    &self->held, err);
}

static int note_progress(void *context, uint64_t done, struct err *err)
{
    struct migration *self = context;
    (void)done;
    return beat(self, err);
}

static int send_copy(struct migration *self, struct err *err)
{
    char path[PATH_MAX];
    _cleanup_(free_message) StreamMessage *ready = NULL;
    snprintf(path, sizeof(path), "%.*s", (int)self->held->path.len,
             (const char *)self->held->path.data);
    struct send_request request = {
        .path = path,
        .then_stop = self->held->then_stop,
        .tcp = self->held->tcp,
        .checkpoints_left = self->held->checkpoints_left,
        .places = self->held->places,
        .place_count = self->held->n_places,
        .progress = note_progress,
        .context = self,
    };
    int error = send_image(&self->stream, &request, &self->sent, err);
    fault_point("migrate:sent");
    if (!error)
        error = await_target(self, FREEZEPOINT__STREAM__KIND__READY, &ready, err);
    if (!error)
        self->restore_ns = ready->restore_ns;
    return error;
}

/* From here on only the other side knows. */
static int ask_outcome(struct migration *self, struct err *err)
{
    say("%s; asking the other side whether the copy runs", err->text);
    stream_release(&self->stream);
    via_close(&self->via);
    for (int i = 0; i < ASK_TIMES; i++) {
        struct err ignored;
        request(self, FREEZEPOINT__REQUEST_KIND__REQUEST_ALIVE, NULL, &ignored);
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
    int error = request(self, FREEZEPOINT__REQUEST_KIND__REQUEST_DOUBT, NULL, err);
    if (!error)
        error = await_supervisor(self, FREEZEPOINT__REPLY_KIND__REPLY_DOUBTED, SETTLE_TIMEOUT_MS,
                                 &doubted, err);
    if (error)
        return error;
    /* One that came until now is forgotten: it does not tell how this ends. */
    catch_signals(false);
    interrupted = 0;
    fault_point("migrate:go");
    error = stream_say(&self->stream, FREEZEPOINT__STREAM__KIND__GO, NULL, err);
    if (!error)
        error = await_target(self, FREEZEPOINT__STREAM__KIND__RUNNING, &running, err);
    self->running_ns = proc_monotonic_ns();
    fault_point("migrate:told");
    if (!error)
        snprintf(self->name_there, sizeof(self->name_there), "%s", running->text);
    else if (error != -ECANCELED)
        error = ask_outcome(self, err);
    return error;
}

static int settle(struct migration *self, int error, struct err *err)
{
    struct err why;
    _cleanup_(free_reply) Freezepoint__Reply *reply = NULL;
    if (error == -EINPROGRESS)
        return error;
    int failed = request(self,
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
        say("the program runs there; its former supervisor does not answer: %s", why.text);
    return error;
}

static int migrate(struct migration *self, struct err *err)
{
    int error = say_hello(self, err);
    if (error)
        return error;
    self->supervisor = request_connect(self->job, err);
    if (self->supervisor < 0)
        return self->supervisor;
    self->begun_ns = proc_monotonic_ns();
    error = hold(self, err);
    fault_point("migrate:hold");
    if (error && !self->held)
        return error;
    if (!error)
        error = send_copy(self, err);
    fault_point("migrate:ready");
    if (!error)
        error = run_copy(self, err);
    return settle(self, error, err);
}

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
    bool whole = fputs(self->options->via, to) >= 0 && !ferror(to);
    fclose(to);
    return whole ? 0 : err_usage(err, "--via: the command is too long");
}

static void report(const struct migration *self)
{
    char name[JOB_NAME_MAX + 16] = "";
    if (self->name_there[0])
        snprintf(name, sizeof(name), " as %s", self->name_there);
    say("migrated %s: it runs there%s; stood for %.1f ms (dump %.1f, restore %.1f), %.1f MB sent",
        self->job, name, (double)(self->running_ns - self->held->frozen_ns) / 1e6,
        (double)(self->held->dumped_ns - self->held->frozen_ns) / 1e6,
        (double)self->restore_ns / 1e6, (double)self->stream.sent / 1e6);
}

static int run(void *context, const struct arguments *arguments, struct err *err)
{
    struct migration self = {.options = context,
                             .job = arguments->list[0],
                             .via = VIA_NONE,
                             .stream = STREAM_NONE,
                             .supervisor = -1};
    if (!self.options->via)
        return err_usage(err, "--via is missing: the command that runs 'freezepoint receive' on "
                              "the other side, as in --via 'ssh HOST freezepoint receive'");
    catch_signals(true);
    int error = note_command(&self, err);
    if (!error)
        error = moving_make_id(self.moving.id, err);
    if (!error)
        error = migrate(&self, err);
    if (error && self.stream.out >= 0 && error != -EPIPE) {
        struct err ignored;
        stream_say(&self.stream, FREEZEPOINT__STREAM__KIND__CANCEL, err->text, &ignored);
    }
    if (!error)
        report(&self);
    if (self.held)
        freezepoint__reply__free_unpacked(self.held, NULL);
    fd_close(&self.supervisor);
    stream_release(&self.stream);
    via_close(&self.via);
    return error ? err_wrap(err, "job '%s' is not migrated", self.job) : 0;
}

static const struct option_spec options[] = {
    {"via", "COMMAND", "what reaches the other side, such as 'ssh HOST freezepoint receive'", NULL},
    {"move-address", "ADDRESS/PREFIX@INTERFACE", "an address that goes along; may be repeated",
     NULL},
    {"at", "WHEN", "migrate now (default), or at the next of the job's points that is due",
     "now next"},
    {0},
};

const struct command cmd_migrate = {
    .name = "migrate",
    .synopsis = "[OPTION]... JOB --via COMMAND",
    .summary = "Move a running job to another host, with its open connections",
    .details = "The job is stopped, its image sent, and restored there; only when it runs there "
               "is it gone from here. Whatever fails before that, it goes on here, at the "
               "latest 30 s later: the other side is given up after 10 s of silence. Where the "
               "link is cut just when the copy is about to run, the job stands until COMMAND "
               "reaches the other side again and has asked whether it does.",
    .options = options,
    .needs = NEEDS_ROOT,
    .arguments_min = 1,
    .arguments_max = 1,
    .set = set,
    .run = run,
    .context_size = sizeof(struct migrate_options),
};
