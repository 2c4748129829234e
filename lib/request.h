/*
 * What another freezepoint process and a job's supervisor say to each other over
 * /run/freezepoint/JOB/request.sock: proto/request.proto, one message per packet of a
 * SEQPACKET socket.
 *
 * Both sides are root's.  No state; threads may call at will.
 */
#ifndef FREEZEPOINT_REQUEST_H
#define FREEZEPOINT_REQUEST_H

#include "lib/err.h"
#include "lib/job.h"
#include "request.pb-c.h"

#define REQUEST_VERSION 1

/* Connects to the supervisor of a running job.  Returns a CLOEXEC descriptor, the
 * caller's; -ENOENT where no such job runs, -ECONNREFUSED where nobody listens. */
int request_connect(const char *job_name, struct err *err);

/* Takes one connection; -EAGAIN where there is none, or it was not root's. */
int request_accept(const struct job *job, struct err *err);

int request_send(int connection, const Freezepoint__Request *request, struct err *err);
int reply_send(int connection, const Freezepoint__Reply *reply, struct err *err);

/* Wait at most timeout_ms: -ETIMEDOUT.  -EPIPE: the other side is gone.  -EPROTO: what
 * came is no message of this version.  *out is freed with ...__free_unpacked(). */
int request_receive(int connection, int timeout_ms, Freezepoint__Request **out, struct err *err);
int reply_receive(int connection, int timeout_ms, Freezepoint__Reply **out, struct err *err);

#endif
