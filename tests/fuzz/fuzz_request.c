/* What a supervisor is asked, and what it replies. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/fd.h"
#include "lib/request.h"
#include "tests/fuzz/fuzz.h"

static void try_request(int from, int to, const uint8_t *bytes, size_t size)
{
    struct err err;
    Freezepoint__Request *request = NULL;
    if (fd_send(from, bytes, size, -1) < 0 || request_receive(to, 0, &request, &err))
        return;
    /* What was accepted can be sent on: packed it is no longer than it came. */
    if (request->version != REQUEST_VERSION || request_send(from, request, &err))
        abort();
    freezepoint__request__free_unpacked(request, NULL);
    request = NULL;
    if (request_receive(to, 0, &request, &err) == 0)
        freezepoint__request__free_unpacked(request, NULL);
}

static void try_reply(int from, int to, const uint8_t *bytes, size_t size)
{
    struct err err;
    Freezepoint__Reply *reply = NULL;
    if (fd_send(from, bytes, size, -1) < 0 || reply_receive(to, 0, &reply, &err))
        return;
    if (reply->version != REQUEST_VERSION || reply_send(from, reply, &err))
        abort();
    freezepoint__reply__free_unpacked(reply, NULL);
    reply = NULL;
    if (reply_receive(to, 0, &reply, &err) == 0)
        freezepoint__reply__free_unpacked(reply, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        abort();
    _cleanup_close_ int from = ends[0];
    _cleanup_close_ int to = ends[1];
    try_request(from, to, bytes, size);
    try_reply(from, to, bytes, size);
    return 0;
}

static uint8_t *pack(const ProtobufCMessage *message, size_t *size)
{
    *size = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(*size + 1);
    protobuf_c_message_pack(message, bytes);
    return bytes;
}

uint8_t *fuzz_seed(size_t index, size_t *size)
{
    char *addresses[] = {(char *)"10.0.0.5/24@eth0"};
    uint8_t place[] = {0, 80, 10, 0, 0, 1};
    ProtobufCBinaryData places[] = {{.len = sizeof(place), .data = place}};
    Freezepoint__Request request = FREEZEPOINT__REQUEST__INIT;
    Freezepoint__Reply reply = FREEZEPOINT__REPLY__INIT;
    request.version = reply.version = REQUEST_VERSION;
    request.kind = FREEZEPOINT__REQUEST_KIND__REQUEST_HOLD;
    request.id = (char *)"0123456789abcdef0123456789abcdef";
    request.via = (ProtobufCBinaryData){.len = 5, .data = (uint8_t *)"ssh b"};
    request.addresses = addresses;
    request.n_addresses = 1;
    reply.kind = FREEZEPOINT__REPLY_KIND__REPLY_HELD;
    reply.path = (ProtobufCBinaryData){.len = 4, .data = (uint8_t *)"/a/b"};
    reply.frozen_ns = 1234567;
    reply.places = places;
    reply.n_places = 1;
    return index == 0 ? pack(&request.base, size) : index == 1 ? pack(&reply.base, size) : NULL;
}
