#include "trigger/dump.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "lib/fault.h"
#include "lib/fd.h"
#include "lib/job.h"
#include "lib/log.h"

/* How long CRIU may go without any sign of work before it is given up. */
#define STALL_MS (60 * 1000)
#define LOG_NAME "dump.log"

static size_t count_strings(const char *const *list)
{
    size_t count = 0;
    while (list && list[count])
        count++;
    return count;
}

static int send_request(const struct dump_request *request, int socket, struct err *err)
{
    CriuOpts options = CRIU_OPTS__INIT;
    options.images_dir_fd = -1;
    options.images_dir = (char *)request->images_path;
    options.has_pid = true;
    options.pid = request->root;
    options.has_leave_running = true;
    options.leave_running = request->leave_running;
    options.has_log_level = true;
    options.log_level = request->log_level;
    options.log_file = (char *)LOG_NAME;
    options.has_notify_scripts = true;
    options.notify_scripts = true;
    /* The group is ours to make again; saves 7-15 ms. */
    options.has_manage_cgroups_mode = true;
    options.manage_cgroups_mode = CRIU_CG_MODE__IGNORE;
    options.has_ext_unix_sk = true;
    options.ext_unix_sk = true;
    options.has_file_locks = true;
    options.file_locks = true;
    options.has_link_remap = true;
    options.link_remap = true;
    options.has_tcp_skip_in_flight = true;
    options.tcp_skip_in_flight = true;
    options.has_ghost_limit = true;
    options.ghost_limit = 256U << 20;
    options.has_tcp_established = true;
    options.tcp_established = request->tcp == TCP_MODE_ESTABLISHED;
    options.has_tcp_close = true;
    options.tcp_close = request->tcp == TCP_MODE_CLOSE;
    /* Only open connections need it, and making the nftables table alone takes
     * 17 ms (criu/net.c, network_lock). */
    options.has_network_lock = true;
    options.network_lock = options.tcp_established && !request->fenced
                               ? CRIU_NETWORK_LOCK_METHOD__NFTABLES
                               : CRIU_NETWORK_LOCK_METHOD__SKIP;
    options.n_external = count_strings(request->external);
    options.external = (char **)request->external;
    options.config_file = (char *)request->config;
    CriuReq message = CRIU_REQ__INIT;
    message.type = CRIU_REQ_TYPE__DUMP;
    message.opts = &options;
    return criu_send(socket, &message, err);
}

int dump_prepare(const struct dump_request *request, struct dump *out, struct err *err)
{
    struct dump dump = DUMP_NONE;
    dump.job_name = request->job_name;
    snprintf(dump.log_path, sizeof(dump.log_path), "%s/" LOG_NAME, request->images_path);
    int error = criu_worker_start(request->criu, request->inside, &dump.worker, err);
    if (error)
        return error;
    error = send_request(request, dump.worker.socket, err);
    if (error) {
        dump_end(&dump);
        return error;
    }
    *out = dump;
    return 0;
}

static void free_response(CriuResp **response)
{
    if (*response)
        criu_resp__free_unpacked(*response, NULL);
}

/* The draft, with the log in it, is about to go: a copy stays. */
static int keep_log(const struct dump *dump, char *path, size_t size)
{
    char directory[PATH_MAX - 16];
    struct err ignored;
    int error = job_make_log_directory(dump->job_name, directory, sizeof(directory), &ignored);
    if (error)
        return error;
    snprintf(path, size, "%s/" LOG_NAME, directory);
    _cleanup_close_ int from = open(dump->log_path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    _cleanup_close_ int to =
        open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    return from < 0 || to < 0 ? -errno : fd_copy(from, to);
}

static int explain(const struct dump *dump, const char *what, const CriuResp *response,
                   struct err *err)
{
    char path[PATH_MAX];
    bool kept = keep_log(dump, path, sizeof(path)) == 0;
    return criu_explain(what, response, kept ? path : dump->log_path, err);
}

static int receive(struct dump *dump, CriuResp **out, struct err *err)
{
    int error = criu_receive(&dump->worker, dump->worker.pid, STALL_MS, out, err);
    dump->given_up = error == -ETIMEDOUT || error == -ESRCH;
    if (error == -EPIPE)
        return explain(dump, "the dump failed", NULL, err);
    return error;
}

static int acknowledge(struct dump *dump, bool success, struct err *err)
{
    int error = criu_acknowledge(dump->worker.socket, success, err);
    return error == -EPIPE ? explain(dump, "the dump failed", NULL, err) : error;
}

static bool is_notification(const CriuResp *response, const char *script)
{
    return response->type == CRIU_REQ_TYPE__NOTIFY && response->notify &&
           response->notify->script && !strcmp(response->notify->script, script);
}

/* Lets CRIU go on until it sends the notification `script`, and leaves that without
 * an answer. */
static int await_notification(struct dump *dump, const char *script, struct err *err)
{
    for (;;) {
        _cleanup_(free_response) CriuResp *response = NULL;
        int error = receive(dump, &response, err);
        if (error)
            return error;
        if (is_notification(response, script))
            return 0;
        if (response->type != CRIU_REQ_TYPE__NOTIFY)
            return explain(dump, "the dump failed", response, err);
        error = acknowledge(dump, true, err);
        if (error)
            return error;
    }
}

int dump_await_ready(struct dump *dump, struct err *err)
{
    int error = dump->ready ? 0 : await_notification(dump, "pre-dump", err);
    dump->ready = !error;
    return error;
}

int dump_begin(struct dump *dump, struct err *err)
{
    return acknowledge(dump, true, err);
}

int dump_await_held(struct dump *dump, struct err *err)
{
    return await_notification(dump, "query-ext-files", err);
}

int dump_go_on(struct dump *dump, struct err *err)
{
    return acknowledge(dump, true, err);
}

int dump_await_written(struct dump *dump, struct err *err)
{
    return await_notification(dump, "post-dump", err);
}

int dump_settle(struct dump *dump, bool keep, struct err *err)
{
    int error = acknowledge(dump, keep, err);
    while (!error) {
        _cleanup_(free_response) CriuResp *response = NULL;
        error = receive(dump, &response, err);
        if (error)
            return error;
        if (response->type == CRIU_REQ_TYPE__NOTIFY)
            error = acknowledge(dump, true, err);
        else if (response->success || !keep)
            return 0;
        else
            return explain(dump, "the dump failed", response, err);
    }
    return error;
}

bool dump_is_alive(const struct dump *dump)
{
    return dump->worker.pidfd >= 0 && fd_wait(dump->worker.pidfd, POLLIN, 0) == 0;
}

int dump_settle_log(const struct dump *dump, struct err *err)
{
    char copy[sizeof(dump->log_path) + 8];
    snprintf(copy, sizeof(copy), "%s.copy", dump->log_path);
    _cleanup_close_ int from = open(dump->log_path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    _cleanup_close_ int to = open(copy, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (from < 0 || to < 0)
        return err_set(err, errno, "copy '%s'", dump->log_path);
    int error = fd_copy(from, to);
    if (!error && rename(copy, dump->log_path) < 0)
        error = -errno;
    return error ? err_set(err, -error, "copy '%s'", dump->log_path) : 0;
}

void dump_end(struct dump *dump)
{
    criu_worker_finish(&dump->worker, dump->ready && !dump->given_up ? 5000 : 0);
    criu_worker_end(&dump->worker);
    dump->ready = dump->given_up = false;
}

void dump_call_off(struct dump *dump)
{
    struct err ignored;
    if (dump_await_held(dump, &ignored) == 0)
        dump_settle(dump, false, &ignored);
    dump_end(dump);
}
