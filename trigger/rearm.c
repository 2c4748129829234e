#include "trigger/rearm.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "preload/abi.h"

#define TIMEOUT_MS 1000
/* How many are turned away before the caller has something else to do. */
#define STRANGERS_MAX 64

static bool is_of_job(const struct job *job, pid_t pid, struct err *err)
{
    _cleanup_free_ pid_t *pids = NULL;
    ssize_t count = cgroup_processes(job->group.fd, &pids, err);
    for (ssize_t i = 0; i < count; i++)
        if (pids[i] == pid)
            return true;
    return false;
}

static bool is_listener(int fd)
{
    char link[64], target[64];
    snprintf(link, sizeof(link), "fd/%d", fd);
    return proc_link(getpid(), link, target, sizeof(target)) == 0 &&
           !strcmp(target, "anon_inode:seccomp notify");
}

static int receive_listener(int connection, int *listener, struct err *err)
{
    int events = fd_wait(connection, POLLIN, TIMEOUT_MS);
    if (events <= 0)
        return err_text(err, ETIMEDOUT, "a re-arming process did not speak");
    struct fz_rearm message;
    ssize_t n = fd_receive(connection, &message, sizeof(message), listener);
    if (n < 0)
        return err_set(err, (int)-n, "receive from a re-arming process");
    if (n != (ssize_t)sizeof(message) || message.magic != FZ_CONTROL_MAGIC || *listener < 0 ||
        !is_listener(*listener))
        return err_text(err, EPROTO, "a re-arming process sent something else than a listener");
    return 0;
}

static int accept_one(const struct job *job, struct err *err)
{
    _cleanup_close_ int connection = accept4(job->socket_fd, NULL, NULL, SOCK_CLOEXEC);
    if (connection < 0)
        return errno == EAGAIN || errno == ECONNABORTED ? -EAGAIN : err_set(err, errno, "accept");
    struct ucred peer;
    socklen_t size = sizeof(peer);
    if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        return err_set(err, errno, "SO_PEERCRED");
    if (!is_of_job(job, peer.pid, err))
        return err_text(err, EPERM, "process %d is not of this job and may not re-arm", peer.pid);
    return fd_steal(&connection);
}

int rearm_accept(const struct job *job, struct err *err)
{
    for (int i = 0; i < STRANGERS_MAX; i++) {
        int connection = accept_one(job, err);
        if (connection != -EPERM)
            return connection;
        log_debug("rearm", "%s", err->text);
    }
    return -EAGAIN;
}

int rearm_serve(int connection, struct err *err)
{
    _cleanup_close_ int listener = -1;
    int error = receive_listener(connection, &listener, err);
    if (error)
        return error;
    struct fz_rearm_reply reply = {.magic = FZ_CONTROL_MAGIC, .accepted = 1};
    ssize_t n = fd_send(connection, &reply, sizeof(reply), -1);
    if (n < 0)
        return err_set(err, (int)-n, "answer a re-arming process");
    /* Its end must be closed before a dump can begin. */
    fd_wait(connection, POLLIN | POLLRDHUP, TIMEOUT_MS);
    return fd_steal(&listener);
}
