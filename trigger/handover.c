#include "trigger/handover.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/criu.h"
#include "lib/fault.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/request.h"
#include "trigger/manifest_fill.h"

/* The requester says that it lives once a second. */
#define PATIENCE_MS       (15 * 1000)
#define SPEAK_TIMEOUT_MS  1000
#define FREEZE_TIMEOUT_MS (10 * 1000)
#define KILL_TIMEOUT_MS   (10 * 1000)
#define ASK_AGAIN_MS      2000
#define PLACES_MAX        2000
#define LOOK_MS           250

static const char already_moving[] = "the job is just being migrated";

static void free_request(Freezepoint__Request **request)
{
    if (*request)
        freezepoint__request__free_unpacked(*request, NULL);
}

static int reply(int connection, Freezepoint__ReplyKind kind, const char *text, struct err *err)
{
    Freezepoint__Reply message;
    freezepoint__reply__init(&message);
    message.kind = kind;
    message.text = (char *)text;
    return reply_send(connection, &message, err);
}

static const char *check(const Freezepoint__Request *request, bool has_points)
{
    if (request->kind != FREEZEPOINT__REQUEST_KIND__REQUEST_HOLD)
        return "this supervisor does not know that request";
    if (!moving_id_is_valid(request->id))
        return "the migration has an odd number";
    if (request->via.len == 0 || request->via.len >= MOVING_VIA_MAX ||
        memchr(request->via.data, '\0', request->via.len))
        return "the command of --via is empty or too long";
    if (request->next_point && !has_points)
        return "the job has no further point that could be due; leave --at next out";
    for (size_t i = 0; i < request->n_addresses; i++) {
        struct moved_address ignored;
        struct err err;
        if (address_parse(request->addresses[i], &ignored, &err))
            return "an address that is to go along cannot be read";
    }
    return NULL;
}

int handover_accept(const struct supervision *job, bool has_points, struct handover *out)
{
    struct err err;
    _cleanup_close_ int connection = request_accept(job->job, &err);
    if (connection < 0)
        return 0;
    _cleanup_(free_request) Freezepoint__Request *request = NULL;
    if (request_receive(connection, SPEAK_TIMEOUT_MS, &request, &err)) {
        log_info("migrate", "a request: %s", err.text);
        return 0;
    }
    const char *refusal = out->connection >= 0 ? already_moving : check(request, has_points);
    struct moving moving = {.id = ""};
    for (size_t i = 0; i < request->n_addresses && !refusal; i++)
        if (moving_add_address(&moving, request->addresses[i], &err))
            refusal = "too many addresses are to go along";
    if (refusal) {
        reply(connection, FREEZEPOINT__REPLY_KIND__REPLY_REFUSED, refusal, &err);
        return 0;
    }
    *out = (struct handover){.connection = fd_steal(&connection),
                             .fence = FENCE_NONE,
                             .at_point = request->next_point,
                             .moving = moving,
                             .job = job,
                             .as = *job};
    snprintf(out->moving.id, sizeof(out->moving.id), "%s", request->id);
    snprintf(out->moving.via, sizeof(out->moving.via), "%.*s", (int)request->via.len,
             (const char *)request->via.data);
    out->as.then_stop = true;
    out->as.tcp = TCP_MODE_ESTABLISHED;
    if (out->at_point)
        reply(out->connection, FREEZEPOINT__REPLY_KIND__REPLY_WAITING, NULL, &err);
    return 1;
}

/* ---- packets ---- */

/* The whole of an address, where it goes along, has its ports. */
static bool covers(const struct socket_address *known, const struct socket_address *place)
{
    struct socket_address whole = *place;
    if (known->port == 0)
        whole.port = 0;
    return socket_address_equals(known, &whole);
}

static int add_place(struct handover *self, const struct socket_address *place)
{
    for (size_t i = 0; i < self->place_count; i++)
        if (covers(&self->places[i], place))
            return 0;
    /* They have to fit into a reply, and nft has to take them. */
    if (self->place_count == PLACES_MAX)
        return -E2BIG;
    struct socket_address *grown =
        reallocarray(self->places, self->place_count + 1, sizeof(*self->places));
    if (!grown)
        return -ENOMEM;
    self->places = grown;
    self->places[self->place_count++] = *place;
    return 0;
}

static int find_sockets(const struct handover *self, struct open_sockets *out, struct err *err)
{
    return sockets_find_of_group(self->as.job->group.fd, out, err);
}

/* Where the job is reached, and where its connections end. */
static int add_places(struct handover *self, struct err *err)
{
    _cleanup_(sockets_free) struct open_sockets sockets = OPEN_SOCKETS_NONE;
    int error = find_sockets(self, &sockets, err);
    for (size_t i = 0; i < sockets.count && !error; i++) {
        if (sockets.list[i].kind == SOCKET_DATAGRAM || sockets.list[i].local.port == 0)
            continue;
        error = add_place(self, &sockets.list[i].local);
        if (error == -E2BIG)
            err_text(err, E2BIG,
                     "the job has more than %d ports, connections that it has opened itself "
                     "among them; have it close some, or move their address: --move-address",
                     PLACES_MAX);
        else if (error)
            err_set(err, -error, "list the job's connections");
    }
    return error;
}

static int check_address(const struct moved_address *address, struct err *err)
{
    int here = address_is_here(address, err);
    char text[SOCKET_ADDRESS_TEXT];
    socket_address_text(&address->address, text);
    if (here == 0)
        return err_text(err, EADDRNOTAVAIL,
                        "--move-address: %s is no address of %s here; 'ip address' lists them",
                        text, address->device);
    return here < 0 ? here : address_check_leaving(address, err);
}

static int add_moved(struct handover *self, struct err *err)
{
    char text[sizeof(self->moving.addresses)], *rest = NULL;
    memcpy(text, self->moving.addresses, sizeof(text));
    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        struct moved_address address;
        int error = address_parse(word, &address, err);
        if (!error && add_place(self, &address.address))
            error = err_set(err, ENOMEM, "list the addresses");
        if (error)
            return error;
    }
    return 0;
}

static int start_fence(struct handover *self, struct err *err)
{
    if (self->place_count == 0 || self->fence.pid)
        return 0;
    int error = fence_start(self->moving.id, &self->fence, err);
    return error ? error : keeper_hold(self->as.keeper, self->fence.socket, err);
}

int handover_prepare(struct handover *handover, struct err *err)
{
    struct err ignored;
    if (criu_version(handover->job->criu, handover->criu_version, sizeof(handover->criu_version),
                     &ignored))
        snprintf(handover->criu_version, sizeof(handover->criu_version), "unknown");
    int error = moving_addresses(&handover->moving, check_address, err);
    if (!error)
        error = add_moved(handover, err);
    if (!error)
        error = add_places(handover, err);
    if (!error)
        error = start_fence(handover, err);
    if (!error && handover->place_count)
        error = fence_refuse_new(&handover->fence, handover->places, handover->place_count, err);
    return error;
}

int handover_is_early(const struct handover *handover, struct err *err)
{
    _cleanup_(sockets_free) struct open_sockets sockets = OPEN_SOCKETS_NONE;
    if (handover->place_count == 0)
        return 0;
    int error = find_sockets(handover, &sockets, err);
    for (size_t i = 0; i < sockets.count && !error; i++)
        if (sockets.list[i].waiting)
            return 1;
    return error;
}

static ssize_t count_processes(const struct handover *self, struct err *err)
{
    _cleanup_free_ pid_t *pids = NULL;
    return cgroup_processes(self->as.job->group.fd, &pids, err);
}

int handover_close_off(struct handover *handover, struct err *err)
{
    /* Connections may have been made meanwhile. */
    int error = add_places(handover, err);
    if (!error)
        error = start_fence(handover, err);
    if (!error && handover->place_count)
        error = fence_close_off(&handover->fence, handover->places, handover->place_count, err);
    if (!error)
        handover->process_count = count_processes(handover, err);
    return error ? error : handover->process_count < 0 ? (int)handover->process_count : 0;
}

int handover_freeze(struct handover *handover, struct err *err)
{
    return cgroup_write_freeze(handover->as.job->group.fd, true, err);
}

static void open_again(struct handover *self)
{
    struct err err;
    if (self->fence.pid == 0)
        return;
    /* The keeper first: what nft cannot take away goes with the last who holds it. */
    if (keeper_hold(self->as.keeper, -1, &err))
        log_warning("migrate", "%s", err.text);
    if (fence_open(&self->fence, &err))
        log_warning("migrate", "%s", err.text);
    fence_end(&self->fence);
}

/* ---- the hand-over ---- */

bool handover_is_wanted(struct handover *handover)
{
    _cleanup_(free_request) Freezepoint__Request *request = NULL;
    struct err err;
    return request_receive(handover->connection, 0, &request, &err) == 0 &&
           request->kind == FREEZEPOINT__REQUEST_KIND__REQUEST_ALIVE;
}

static int tell_held(struct handover *handover, const struct image_draft *draft,
                     const struct hit *hit, struct err *err)
{
    Freezepoint__Reply message;
    freezepoint__reply__init(&message);
    message.kind = FREEZEPOINT__REPLY_KIND__REPLY_HELD;
    message.path =
        (ProtobufCBinaryData){.len = strlen(draft->path), .data = (uint8_t *)draft->path};
    message.frozen_ns = hit->frozen_ns;
    message.dumped_ns = hit->dumped_ns;
    message.then_stop = handover->job->then_stop;
    message.tcp = (uint32_t)handover->job->tcp;
    message.checkpoints_left = handover->checkpoints_left;
    _cleanup_free_ ProtobufCBinaryData *places = calloc(handover->place_count + 1, sizeof(*places));
    _cleanup_free_ uint8_t *bytes = malloc((handover->place_count + 1) * SOCKET_ADDRESS_PACKED);
    if (!places || !bytes)
        return err_set(err, ENOMEM, "tell of the job's connections");
    for (size_t i = 0; i < handover->place_count; i++) {
        places[i].data = bytes + i * SOCKET_ADDRESS_PACKED;
        places[i].len = socket_address_pack(&handover->places[i], places[i].data);
    }
    message.places = places;
    message.n_places = handover->place_count;
    return reply_send(handover->connection, &message, err);
}

/* What ran since the image was made would run again over there. */
static int check_stood(const struct handover *self, struct err *err)
{
    if (fd_wait(self->dumper, POLLIN, 0) != 0)
        return err_text(err, EPIPE, "CRIU, which held the program, has died");
    ssize_t count = count_processes(self, err);
    if (count < 0)
        return (int)count;
    return count == self->process_count
               ? 0
               : err_text(err, ESRCH, "processes of the program were killed meanwhile");
}

/* From here on the tree stands whoever dies. */
static int begin_doubt(struct handover *handover, struct err *err)
{
    const struct job *job = handover->as.job;
    int error = cgroup_set_frozen(job->group.fd, true, FREEZE_TIMEOUT_MS, err);
    if (!error)
        error = check_stood(handover, err);
    if (!error)
        error = moving_begin(job->runtime_path, &handover->moving, err);
    fault_point("migrate:doubt");
    if (!error)
        error = reply(handover->connection, FREEZEPOINT__REPLY_KIND__REPLY_DOUBTED, NULL, err);
    return error;
}

/* The requester cannot tell any more: the other side is asked until it answers. */
static int ask(const struct handover *handover, struct err *err)
{
    for (bool said = false;; said = true) {
        struct err why;
        int outcome = moving_ask(&handover->moving, &why);
        if (outcome == OUTCOME_RAN)
            return 0;
        if (outcome == OUTCOME_NEVER)
            return err_text(err, ECANCELED, "the other side was cut off before it ran the copy");
        char line[2048];
        snprintf(line, sizeof(line),
                 "the job stands until it is known whether its copy runs; the other side cannot "
                 "be asked, trying on: %s",
                 why.text);
        if (!said)
            handover->as.say(line, handover->as.say_context);
        nanosleep(&(struct timespec){.tv_sec = ASK_AGAIN_MS / 1000}, NULL);
    }
}

/* Others are not kept waiting. */
static void refuse_others(const struct handover *self)
{
    struct err ignored;
    _cleanup_close_ int connection = request_accept(self->as.job, &ignored);
    _cleanup_(free_request) Freezepoint__Request *request = NULL;
    /* Closed with a request unread it would not hear the reply (unix(7), ECONNRESET). */
    if (connection >= 0 && request_receive(connection, SPEAK_TIMEOUT_MS, &request, &ignored) == 0)
        reply(connection, FREEZEPOINT__REPLY_KIND__REPLY_REFUSED, already_moving, &ignored);
}

/* A signal for the program, which is blocked here, is for the one that goes on here: it
 * would be lost, or meet it over there. */
static int check_signals(struct err *err)
{
    static const int wanted[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM};
    sigset_t pending;
    sigemptyset(&pending);
    sigpending(&pending);
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        if (sigismember(&pending, wanted[i]))
            return err_text(err, EINTR, "signal %d came for the program", wanted[i]);
    return 0;
}

/* Until the requester says something.  In doubt nothing else counts. */
static int await_word(const struct handover *self, bool doubt, struct err *err)
{
    for (int waited_ms = 0; waited_ms <= PATIENCE_MS; waited_ms += LOOK_MS) {
        struct pollfd watched[] = {{.fd = self->connection, .events = POLLIN},
                                   {.fd = self->as.job->request_fd, .events = POLLIN},
                                   {.fd = doubt ? -1 : self->dumper, .events = POLLIN}};
        int ready = poll(watched, 3, LOOK_MS);
        if (ready < 0 && errno != EINTR)
            return err_set(err, errno, "poll");
        int error = doubt ? 0 : check_signals(err);
        if (!error && watched[2].revents)
            error = check_stood(self, err);
        if (error || watched[0].revents)
            return error;
        if (watched[1].revents)
            refuse_others(self);
    }
    return err_text(err, ETIMEDOUT, "freezepoint migrate says nothing");
}

/* 1: not decided yet; 0: gone; else it is to go on. */
static int serve(struct handover *handover, bool *doubt, struct err *err)
{
    _cleanup_(free_request) Freezepoint__Request *request = NULL;
    int error = await_word(handover, *doubt, err);
    if (error)
        return error;
    error = request_receive(handover->connection, SPEAK_TIMEOUT_MS, &request, err);
    if (error)
        return err_wrap(err, "freezepoint migrate");
    switch (request->kind) {
    case FREEZEPOINT__REQUEST_KIND__REQUEST_ALIVE:
        return 1;
    case FREEZEPOINT__REQUEST_KIND__REQUEST_DOUBT:
        error = begin_doubt(handover, err);
        *doubt = !error;
        return error ? error : 1;
    case FREEZEPOINT__REQUEST_KIND__REQUEST_GONE:
        if (*doubt)
            return 0;
        break;
    case FREEZEPOINT__REQUEST_KIND__REQUEST_RELEASE:
        *doubt = false;
        return err_text(err, ECANCELED, "%s", request->text);
    default:
        break;
    }
    return err_text(err, EPROTO, "freezepoint migrate said something odd");
}

int handover_decide(struct handover *handover, const struct image_draft *draft,
                    Freezepoint__Manifest *manifest, const struct hit *hit, int dumper,
                    struct err *err)
{
    bool doubt = false;
    handover->dumper = dumper;
    fault_point("migrate:dumped");
    manifest->criu_version = manifest_copy(handover->criu_version);
    int error = image_draft_describe(draft, manifest, err);
    if (!error)
        error = tell_held(handover, draft, hit, err);
    fault_point("migrate:held");
    while (!error) {
        error = serve(handover, &doubt, err);
        if (error == 0)
            break;
        error = error == 1 ? 0 : error;
    }
    if (error && doubt)
        error = ask(handover, err);
    fault_point("migrate:decided");
    return error;
}

/* Nothing of what the sockets have to say in the end is to get out. */
static void clear_away(struct handover *self)
{
    struct err err;
    int error = cgroup_wait_empty(self->as.job->group.fd, KILL_TIMEOUT_MS, &err);
    if (!error)
        error = moving_addresses(&self->moving, address_remove, &err);
    if (error)
        log_warning("migrate", "%s", err.text);
}

void handover_end(struct handover *handover, int error, const struct err *err)
{
    struct err ignored;
    const struct job *job = handover->as.job;
    if (!error)
        clear_away(handover);
    moving_end(job->runtime_path);
    if (error)
        sockets_end_repair(job->group.fd);
    if (error && cgroup_write_freeze(job->group.fd, false, &ignored))
        log_warning("migrate", "%s", ignored.text);
    open_again(handover);
    fault_point("migrate:settled");
    reply(handover->connection,
          error ? FREEZEPOINT__REPLY_KIND__REPLY_RELEASED : FREEZEPOINT__REPLY_KIND__REPLY_ENDED,
          error ? err->text : NULL, &ignored);
    fd_close(&handover->connection);
    free(handover->places);
    *handover = HANDOVER_NONE;
}
