#include "restore/need.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cgroup.h"
#include "lib/fd.h"
#include "lib/proc.h"
#include "restore/machine.h"
#include "restore/need_files.h"
#include "restore/need_net.h"
#include "restore/refusal.h"

/* Leaves room for the rest of a message. */
#define NEED_SIZE_MAX (STREAM_MESSAGE_MAX - (64U << 10))

/* ---- the source ---- */

/* What the processes have in memory is what an image has. */
static uint64_t measure_memory(const pid_t *pids, size_t count)
{
    uint64_t bytes = 0;
    for (size_t i = 0; pids && i < count; i++) {
        uint64_t its = 0;
        if (proc_pss(pids[i], &its) == 0)
            bytes += its;
    }
    return bytes;
}

static ssize_t find_processes(const char *job, pid_t **pids, struct err *err)
{
    struct cgroup group;
    int error = cgroup_open(job, &group, err);
    if (error == -ENOENT)
        return err_text(err, ENOENT, "no job '%s' runs; freezepoint ps lists what does", job);
    if (error)
        return error;
    ssize_t count = cgroup_processes(group.fd, pids, err);
    cgroup_release(&group);
    return count;
}

static int check_size(const Freezepoint__Stream__Need *need, struct err *err)
{
    size_t size = freezepoint__stream__need__get_packed_size(need);
    if (size <= NEED_SIZE_MAX)
        return 0;
    return err_text(err, E2BIG,
                    "it has %zu files and %zu ports: more than the other side can be told of "
                    "beforehand (%zu bytes of at most %u); have it close some",
                    need->n_files, need->n_ports, size, NEED_SIZE_MAX);
}

static int gather(const char *job, Freezepoint__Stream__Need *need, struct err *err)
{
    _cleanup_free_ pid_t *pids = NULL;
    ssize_t count = find_processes(job, &pids, err);
    if (count < 0)
        return (int)count;
    need->memory = measure_memory(pids, (size_t)count);
    int error = need_files_gather(pids, (size_t)count, need, err);
    if (!error)
        error = need_net_gather(pids, (size_t)count, need, err);
    return error ? error : check_size(need, err);
}

static int check_answer(const Freezepoint__Stream__Hello *hello, struct err *err)
{
    /* What has needs is our own, from a command that gives back what it is told. */
    if (!hello || hello->need)
        return err_text(err, EBADMSG,
                        "the other side answered with an odd hello; does the command run "
                        "'freezepoint receive'?");
    if (hello->version != STREAM_VERSION)
        return err_text(err, ENOTSUP,
                        "the other side speaks version %u of the stream and this freezepoint "
                        "(" FREEZEPOINT_VERSION ") version %u; use the same release on both",
                        hello->version, STREAM_VERSION);
    return 0;
}

static int exchange(struct stream *stream, Freezepoint__Stream__Hello *hello, StreamMessage **out,
                    struct err *err)
{
    StreamMessage message;
    struct err why;
    freezepoint__stream__message__init(&message);
    message.kind = FREEZEPOINT__STREAM__KIND__HELLO;
    message.hello = hello;
    int sent = stream_send(stream, &message, NULL, 0, err);
    if (sent && sent != -EPIPE)
        return sent;
    /* Where it has ended, it may have said why before. */
    int error = stream_expect(stream, FREEZEPOINT__STREAM__KIND__HELLO, out, &why);
    if (error) {
        *err = why;
        return error;
    }
    error = check_answer((*out)->hello, err);
    if (error) {
        freezepoint__stream__message__free_unpacked(*out, NULL);
        *out = NULL;
    }
    return error;
}

int need_ask(struct stream *stream, const struct need_request *request, StreamMessage **out,
             struct err *err)
{
    Freezepoint__Stream__Need need;
    Freezepoint__Stream__Hello hello;
    freezepoint__stream__need__init(&need);
    freezepoint__stream__hello__init(&hello);
    need.hooks = request->hooks;
    need.addresses = (char **)request->addresses;
    while (request->addresses && request->addresses[need.n_addresses])
        need.n_addresses++;
    int error = gather(request->job, &need, err);
    if (!error) {
        _cleanup_(machine_release) struct machine machine;
        machine_describe(request->criu, NULL, &machine);
        hello.version = STREAM_VERSION;
        hello.machine = &machine.message;
        hello.name = (char *)request->job;
        hello.id = (char *)request->id;
        hello.need = &need;
        error = exchange(stream, &hello, out, err);
    }
    need_files_free(&need);
    need_net_free(&need);
    return error;
}

/* ---- the target ---- */

static int answer(struct stream *stream, struct refusals *refusals,
                  Freezepoint__Stream__Machine *machine, struct err *err)
{
    Freezepoint__Stream__Hello hello;
    StreamMessage message;
    freezepoint__stream__hello__init(&hello);
    freezepoint__stream__message__init(&message);
    refusals_close(refusals);
    hello.version = STREAM_VERSION;
    hello.machine = machine;
    hello.refusals = refusals->list;
    hello.n_refusals = refusals->count;
    message.kind = FREEZEPOINT__STREAM__KIND__HELLO;
    message.hello = &hello;
    return stream_send(stream, &message, NULL, 0, err);
}

int need_refuse(struct stream *stream, const char *reason, struct err *err)
{
    _cleanup_(refusals_release) struct refusals refusals = REFUSALS_NONE;
    refuse(&refusals, "%s", reason);
    return answer(stream, &refusals, NULL, err);
}

int need_answer(struct stream *stream, const Freezepoint__Stream__Hello *hello,
                const struct need_place *place, size_t *count, struct err *err)
{
    const Freezepoint__Stream__Need *need = hello->need;
    if (!hello->machine || !need)
        return err_text(err, EBADMSG, "the other side does not tell what it needs");
    _cleanup_(refusals_release) struct refusals refusals = REFUSALS_NONE;
    _cleanup_(machine_release) struct machine machine;
    machine_describe(place->criu, place->store_path, &machine);
    machine_check(hello->machine, &machine.message, &refusals);
    machine_check_space(need->memory, &machine.message, place->store_path, &refusals);
    need_files_check(need, &refusals);
    need_net_check(need, place->device, &refusals);
    need_net_check_fence(need, hello->id, &refusals);
    machine_check_kernel(need->connections > 0, &refusals);
    int error = answer(stream, &refusals, &machine.message, err);
    *count = refusals.count;
    return error;
}
