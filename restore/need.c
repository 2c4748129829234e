#include "restore/need.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>

#include "lib/cgroup.h"
#include "lib/criu.h"
#include "lib/fd.h"
#include "lib/proc.h"

#define REFUSALS_MAX 32
#define FEATURES_MAX 512

/* ---- a machine ---- */

struct machine {
    Freezepoint__Stream__Machine message;
    struct utsname names;
    char criu[32];
    char *flags; /* the line of /proc/cpuinfo, cut into words */
    char *features[FEATURES_MAX];
};

static void release_machine(struct machine *machine)
{
    free(machine->flags);
}

/* The first processor's: they are all alike, or programs would not run on them either. */
static void read_features(struct machine *machine)
{
    _cleanup_fclose_ FILE *file = fopen("/proc/cpuinfo", "re");
    _cleanup_free_ char *line = NULL;
    size_t size = 0;
    while (file && getline(&line, &size, file) > 0) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "flags", 5) != 0 || !colon)
            continue;
        machine->flags = strdup(colon + 1);
        break;
    }
    char *rest = NULL;
    size_t count = 0;
    for (char *word = machine->flags ? strtok_r(machine->flags, " \t\n", &rest) : NULL;
         word && count < FEATURES_MAX; word = strtok_r(NULL, " \t\n", &rest))
        machine->features[count++] = word;
    machine->message.cpu = machine->features;
    machine->message.n_cpu = count;
}

static uint64_t available_memory(void)
{
    _cleanup_fclose_ FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    uint64_t kilobytes = 0;
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "MemAvailable: %" SCNu64, &kilobytes) == 1)
            break;
    return kilobytes << 10;
}

static uint64_t free_space(const char *path)
{
    struct statvfs about;
    return statvfs(path, &about) < 0 ? 0 : (uint64_t)about.f_bavail * about.f_frsize;
}

static void describe_machine(const char *criu, const char *store_path, struct machine *out)
{
    struct err ignored;
    *out = (struct machine){0};
    freezepoint__stream__machine__init(&out->message);
    uname(&out->names);
    if (criu_version(criu, out->criu, sizeof(out->criu), &ignored))
        snprintf(out->criu, sizeof(out->criu), "unknown");
    out->message.hostname = out->names.nodename;
    out->message.kernel = out->names.release;
    out->message.architecture = out->names.machine;
    out->message.freezepoint = (char *)FREEZEPOINT_VERSION;
    out->message.criu = out->criu;
    out->message.memory_free = available_memory();
    out->message.disk_free = store_path ? free_space(store_path) : 0;
    read_features(out);
}

/* ---- the source ---- */

/* What the processes have in memory is what an image has. */
static int measure_memory(const char *job_name, uint64_t *bytes, struct err *err)
{
    struct cgroup group;
    int error = cgroup_open(job_name, &group, err);
    if (error)
        return err_wrap(err, "job '%s'", job_name);
    _cleanup_free_ pid_t *pids = NULL;
    ssize_t count = cgroup_processes(group.fd, &pids, err);
    cgroup_release(&group);
    *bytes = 0;
    for (ssize_t i = 0; i < count; i++) {
        uint64_t its = 0;
        if (proc_pss(pids[i], &its) == 0)
            *bytes += its;
    }
    return count < 0 ? (int)count : 0;
}

int need_ask(struct stream *stream, const char *job_name, const char *id, const char *criu,
             const char *const *addresses, StreamMessage **out, struct err *err)
{
    Freezepoint__Stream__Need need;
    Freezepoint__Stream__Hello hello;
    StreamMessage message;
    freezepoint__stream__need__init(&need);
    freezepoint__stream__hello__init(&hello);
    freezepoint__stream__message__init(&message);
    _cleanup_(release_machine) struct machine machine;
    describe_machine(criu, NULL, &machine);
    int error = measure_memory(job_name, &need.memory, err);
    if (error)
        return error;
    need.addresses = (char **)addresses;
    while (addresses && addresses[need.n_addresses])
        need.n_addresses++;
    hello.version = STREAM_VERSION;
    hello.machine = &machine.message;
    hello.name = (char *)job_name;
    hello.id = (char *)id;
    hello.need = &need;
    message.kind = FREEZEPOINT__STREAM__KIND__HELLO;
    message.hello = &hello;
    error = stream_send(stream, &message, NULL, 0, err);
    if (!error)
        error = stream_expect(stream, FREEZEPOINT__STREAM__KIND__HELLO, out, err);
    if (!error && !(*out)->hello) {
        freezepoint__stream__message__free_unpacked(*out, NULL);
        *out = NULL;
        error = err_text(err, EBADMSG, "the other side answered with an odd hello");
    }
    return error;
}

/* ---- the target ---- */

struct refusals {
    char *list[REFUSALS_MAX];
    size_t count;
};

static void release_refusals(struct refusals *refusals)
{
    for (size_t i = 0; i < refusals->count; i++)
        free(refusals->list[i]);
}

__attribute__((format(printf, 2, 3))) static void refuse(struct refusals *refusals,
                                                         const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (refusals->count == REFUSALS_MAX)
        return;
    refusals->list[refusals->count] = strdup(text);
    refusals->count += refusals->list[refusals->count] != NULL;
}

static bool has_feature(const Freezepoint__Stream__Machine *machine, const char *name)
{
    for (size_t i = 0; i < machine->n_cpu; i++)
        if (!strcmp(machine->cpu[i], name))
            return true;
    return false;
}

static void check_processor(const Freezepoint__Stream__Machine *there,
                            const Freezepoint__Stream__Machine *here, struct refusals *refusals)
{
    char missing[512] = "";
    size_t length = 0;
    for (size_t i = 0; i < there->n_cpu; i++)
        if (!has_feature(here, there->cpu[i]) && length < sizeof(missing))
            length +=
                (size_t)snprintf(missing + length, sizeof(missing) - length, " %s", there->cpu[i]);
    if (length)
        refuse(refusals,
               "the processor here lacks what the program may have found there:%s; start it on "
               "the lesser machine and move it from there",
               missing);
}

static int compare_versions(const char *left, const char *right)
{
    return strverscmp(left, right);
}

static void check_machine(const Freezepoint__Stream__Machine *there,
                          const Freezepoint__Stream__Machine *here, struct refusals *refusals)
{
    if (strcmp(there->architecture, here->architecture) != 0) {
        refuse(refusals, "this machine is %s and that one %s", here->architecture,
               there->architecture);
        return;
    }
    if (compare_versions(here->criu, there->criu) < 0)
        refuse(refusals, "CRIU %s here cannot restore what CRIU %s there dumps; use the same",
               here->criu, there->criu);
    check_processor(there, here, refusals);
}

#define MEGABYTES(bytes) ((double)(bytes) / (1 << 20))

static void check_space(const Freezepoint__Stream__Need *need,
                        const Freezepoint__Stream__Machine *here, const char *store_path,
                        struct refusals *refusals)
{
    if (need->memory > here->memory_free)
        refuse(refusals, "the program has %.0f MB in memory and %.0f MB are free here",
               MEGABYTES(need->memory), MEGABYTES(here->memory_free));
    if (need->memory > here->disk_free)
        refuse(refusals, "its image takes about %.0f MB and '%s' has %.0f MB free; see --images",
               MEGABYTES(need->memory), store_path, MEGABYTES(here->disk_free));
}

int need_answer(struct stream *stream, const Freezepoint__Stream__Hello *hello, const char *criu,
                const char *store_path, size_t *count, struct err *err)
{
    Freezepoint__Stream__Hello answer;
    StreamMessage message;
    freezepoint__stream__hello__init(&answer);
    freezepoint__stream__message__init(&message);
    if (!hello->machine || !hello->need)
        return err_text(err, EBADMSG, "the other side does not tell what it needs");
    _cleanup_(release_refusals) struct refusals refusals = {.count = 0};
    _cleanup_(release_machine) struct machine machine;
    describe_machine(criu, store_path, &machine);
    check_machine(hello->machine, &machine.message, &refusals);
    check_space(hello->need, &machine.message, store_path, &refusals);
    answer.version = STREAM_VERSION;
    answer.machine = &machine.message;
    answer.refusals = refusals.list;
    answer.n_refusals = refusals.count;
    message.kind = FREEZEPOINT__STREAM__KIND__HELLO;
    message.hello = &answer;
    *count = refusals.count;
    return stream_send(stream, &message, NULL, 0, err);
}
