/*
 * CRIU as a worker process that is spoken to over its RPC (criu/cr-service.c,
 * images/rpc.proto): `criu swrk FD` reads one request from a SEQPACKET socket,
 * sends notifications on the way and a response at the end.
 *
 * Nothing here prints; what CRIU says is gathered into struct err by
 * criu_explain().
 */
#ifndef FREEZEPOINT_CRIU_H
#define FREEZEPOINT_CRIU_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"
#include "rpc.pb-c.h"

/* The CRIU to use: $FREEZEPOINT_CRIU, the private one beside the program (in
 * the build folder, or where `make install` puts it), or the system's.
 * ERR_LACK where there is none. */
int criu_locate(char *path, size_t size, struct err *err);

/* "4.2.1", from `criu --version`. */
int criu_version(const char *criu, char *version, size_t size, struct err *err);

/* Makes CRIU's cache of kernel features (/run/criu.kdat) where it is missing or
 * older than this boot.  It saves ~30 ms a call; failing is no error for
 * callers, who may drop *err. */
int criu_cache_features(const char *criu, struct err *err);

/*
 * Writes the settings that CRIU takes from a file alone into `directory`, which must be
 * where the worker finds it too; `path` gets the file's.  They let a program be dumped
 * and restored in which there were uprobes: the kernel's page for them stays mapped.
 */
int criu_write_config(const char *directory, char *path, size_t size, struct err *err);

struct criu_worker {
    pid_t pid;  /* in this process's pid namespace; 0: none */
    int pidfd;  /* -1: none */
    int socket; /* SEQPACKET, CLOEXEC; -1: none */
};

#define CRIU_WORKER_NONE ((struct criu_worker){.pid = 0, .pidfd = -1, .socket = -1})

/*
 * Starts a worker with its own session and /dev/null for its streams.  Where
 * `inside` is a pid (of a restored tree's init) and not 0, the worker is born in
 * that process's pid, mount and network namespaces, as the dump of such a tree
 * needs.  The worker is a child of the caller.
 */
int criu_worker_start(const char *criu, pid_t inside, struct criu_worker *out, struct err *err);

/* In a child that is to become the worker: execs `criu swrk` on `socket` after
 * leaving the caller's session and streams.  Returns only on failure: -errno. */
int criu_worker_exec(const char *criu, int socket);

/* Kills it where it still runs, reaps it, closes.  Safe on CRIU_WORKER_NONE. */
void criu_worker_end(struct criu_worker *worker);

/* Reaps a worker that is about to exit, waiting at most timeout_ms, then as
 * criu_worker_end(). */
void criu_worker_finish(struct criu_worker *worker, int timeout_ms);

/* The worker's death is -EPIPE. */
int criu_send(int socket, const CriuReq *request, struct err *err);

/*
 * Waits for one message.  A worker that makes no progress (processor time and
 * input/output of `pid` and its descendants unchanged) for stall_ms is given up:
 * -ETIMEDOUT.  The worker's death is -EPIPE, also where processes that it has made still
 * have its socket.  -ESRCH: a process with several threads
 * was killed while the worker traced it, and the worker waits for its first thread,
 * which never ends before the worker has waited for the others (kernel/exit.c,
 * wait_consider_task()).  *out is freed with criu_resp__free_unpacked().
 */
int criu_receive(const struct criu_worker *worker, pid_t pid, int stall_ms, CriuResp **out,
                 struct err *err);

/* Answers a notification. */
int criu_acknowledge(int socket, bool success, struct err *err);

/*
 * Puts what CRIU said about a failure into *err: "WHAT: MESSAGE; log PATH;
 * REMEDY".  `response` may be NULL (the worker died).  A log that does not exist is
 * not named.
 * Returns -errno.
 */
int criu_explain(const char *what, const CriuResp *response, const char *log_path, struct err *err);

#endif
