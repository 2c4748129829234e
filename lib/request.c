#include "lib/request.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/fd.h"

#define MESSAGE_MAX (64U << 10)

int request_connect(const char *job_name, struct err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!job_name_is_valid(job_name))
        return err_usage(err, "'%s' cannot be a job's name; freezepoint ps lists them", job_name);
    snprintf(address.sun_path, sizeof(address.sun_path), JOB_RUNTIME_ROOT "/%s/" JOB_REQUEST_SOCKET,
             job_name);
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, errno, "socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd_steal(&fd);
    if (errno == ENOENT)
        return err_text(err, ENOENT, "no job '%s' runs; freezepoint ps lists what does", job_name);
    if (errno == ECONNREFUSED)
        return err_text(err, ECONNREFUSED,
                        "the supervisor of job '%s' is gone; the program runs on without one",
                        job_name);
    return err_set(err, errno, "connect to '%s'", address.sun_path);
}

int request_accept(const struct job *job, struct err *err)
{
    _cleanup_close_ int connection = accept4(job->request_fd, NULL, NULL, SOCK_CLOEXEC);
    if (connection < 0)
        return errno == EAGAIN || errno == ECONNABORTED ? -EAGAIN : err_set(err, errno, "accept");
    struct ucred peer;
    socklen_t size = sizeof(peer);
    if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != 0)
        return -EAGAIN;
    return fd_steal(&connection);
}

static int send_packet(int connection, const ProtobufCMessage *message, struct err *err)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    if (size > MESSAGE_MAX)
        return err_text(err, EMSGSIZE, "a request is too long (%zu bytes)", size);
    _cleanup_free_ uint8_t *bytes = malloc(size + 1);
    if (!bytes)
        return err_set(err, ENOMEM, "request");
    protobuf_c_message_pack(message, bytes);
    ssize_t n = fd_send(connection, bytes, size, -1);
    return n < 0 ? err_set(err, (int)-n, "send to the other process") : 0;
}

int request_send(int connection, const Freezepoint__Request *request, struct err *err)
{
    Freezepoint__Request message = *request;
    message.version = REQUEST_VERSION;
    return send_packet(connection, &message.base, err);
}

int reply_send(int connection, const Freezepoint__Reply *reply, struct err *err)
{
    Freezepoint__Reply message = *reply;
    message.version = REQUEST_VERSION;
    return send_packet(connection, &message.base, err);
}

static int receive_packet(int connection, int timeout_ms, const ProtobufCMessageDescriptor *kind,
                          ProtobufCMessage **out, struct err *err)
{
    int events = fd_wait(connection, POLLIN, timeout_ms);
    if (events < 0)
        return err_set(err, -events, "wait for the other process");
    if (events == 0)
        return err_text(err, ETIMEDOUT, "the other process says nothing");
    _cleanup_free_ uint8_t *bytes = malloc(MESSAGE_MAX + 1);
    if (!bytes)
        return err_set(err, ENOMEM, "request");
    int passed = -1;
    ssize_t n = fd_receive(connection, bytes, MESSAGE_MAX + 1, &passed);
    fd_close(&passed);
    if (n == 0 || n == -ECONNRESET)
        return err_text(err, EPIPE, "the other process is gone");
    if (n < 0)
        return err_set(err, (int)-n, "receive from the other process");
    /* What is cut off could be a whole message of another meaning. */
    if (n > (ssize_t)MESSAGE_MAX)
        return err_text(err, EPROTO, "the other process says too much at once");
    *out = protobuf_c_message_unpack(kind, NULL, (size_t)n, bytes);
    return *out ? 0 : err_text(err, EPROTO, "the other process sent something else");
}

static int check_version(uint32_t version, struct err *err)
{
    return version == REQUEST_VERSION
               ? 0
               : err_text(err, EPROTO, "the other process is of another freezepoint version");
}

int request_receive(int connection, int timeout_ms, Freezepoint__Request **out, struct err *err)
{
    ProtobufCMessage *message = NULL;
    int error =
        receive_packet(connection, timeout_ms, &freezepoint__request__descriptor, &message, err);
    if (!message)
        return error;
    Freezepoint__Request *request = (Freezepoint__Request *)message;
    error = check_version(request->version, err);
    if (error)
        freezepoint__request__free_unpacked(request, NULL);
    else
        *out = request;
    return error;
}

int reply_receive(int connection, int timeout_ms, Freezepoint__Reply **out, struct err *err)
{
    ProtobufCMessage *message = NULL;
    int error =
        receive_packet(connection, timeout_ms, &freezepoint__reply__descriptor, &message, err);
    if (!message)
        return error;
    Freezepoint__Reply *reply = (Freezepoint__Reply *)message;
    error = check_version(reply->version, err);
    if (error)
        freezepoint__reply__free_unpacked(reply, NULL);
    else
        *out = reply;
    return error;
}
