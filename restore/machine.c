#include "restore/machine.h"

#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include "lib/criu.h"
#include "lib/fd.h"
#include "lib/probe.h"

void machine_release(struct machine *machine)
{
    free(machine->flags);
    machine->flags = NULL;
}

/* The first processor's: they are all alike, or programs would not run on them either. */
static void read_features(struct machine *machine)
{
    _cleanup_fclose_ FILE *file = fopen("/proc/cpuinfo", "re");
    _cleanup_free_ char *line = NULL;
    size_t size = 0;
    while (file && getline(&line, &size, file) > 0) {
        char *colon = strchr(line, ':');
        if (!colon || (strncmp(line, "flags", 5) != 0 && strncmp(line, "Features", 8) != 0))
            continue;
        machine->flags = strdup(colon + 1);
        break;
    }
    char *rest = NULL;
    size_t count = 0;
    for (char *word = machine->flags ? strtok_r(machine->flags, " \t\n", &rest) : NULL;
         word && count < MACHINE_FEATURES_MAX; word = strtok_r(NULL, " \t\n", &rest))
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

void machine_describe(const char *criu, const char *store_path, struct machine *out)
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

static int compare_words(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

/*
 * Of x86's flags those that programs go by: instructions and registers.  The others tell of
 * the kernel, of virtualisation, of power and of the ways around errata
 * (arch/x86/include/asm/cpufeatures.h), and differ between hosts that are alike.
 */
static bool is_for_programs(const char *name)
{
    static const char *const families[] = {"avx", "amx", "sse", "fma", "3dnow", "xsave"};
    static const char *const names[] = {
        "abm",        "adx",     "aes",     "bmi1",        "bmi2", "cldemote",  "clflushopt",
        "clwb",       "clzero",  "cmov",    "cmpccxadd",   "cx16", "cx8",       "enqcmd",
        "erms",       "f16c",    "fpu",     "fsgsbase",    "fsrm", "fxsr",      "gfni",
        "hle",        "lahf_lm", "lm",      "misalignsse", "mmx",  "mmxext",    "movbe",
        "movdir64b",  "movdiri", "ospke",   "pclmulqdq",   "pni",  "popcnt",    "prefetchi",
        "rdpid",      "rdrand",  "rdseed",  "rdtscp",      "rtm",  "serialize", "sha512",
        "sha_ni",     "sm3",     "sm4",     "ssse3",       "tbm",  "tsc",       "vaes",
        "vpclmulqdq", "waitpkg", "xgetbv1", "xop"};
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        if (!strncmp(name, families[i], strlen(families[i])))
            return true;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (!strcmp(name, names[i]))
            return true;
    return false;
}

static void check_processor(const Freezepoint__Stream__Machine *there,
                            const Freezepoint__Stream__Machine *here, struct refusals *refusals)
{
    char *sorted[MACHINE_FEATURES_MAX], missing[512] = "";
    size_t count = here->n_cpu < MACHINE_FEATURES_MAX ? here->n_cpu : MACHINE_FEATURES_MAX;
    size_t length = 0;
    bool x86 = !strcmp(here->architecture, "x86_64");
    memcpy(sorted, here->cpu, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), compare_words);
    for (size_t i = 0; i < there->n_cpu && length < sizeof(missing); i++)
        if ((!x86 || is_for_programs(there->cpu[i])) &&
            !bsearch(&there->cpu[i], sorted, count, sizeof(*sorted), compare_words))
            length +=
                (size_t)snprintf(missing + length, sizeof(missing) - length, " %s", there->cpu[i]);
    if (length)
        refuse(refusals,
               "the processor here lacks what the program may have found there:%s; start it on "
               "the lesser machine and move it from there",
               missing);
}

void machine_check(const Freezepoint__Stream__Machine *there,
                   const Freezepoint__Stream__Machine *here, struct refusals *refusals)
{
    if (strcmp(there->architecture, here->architecture) != 0) {
        refuse(refusals, "this machine is %s and that one %.64s", here->architecture,
               there->architecture);
        return;
    }
    if (strverscmp(here->criu, there->criu) < 0)
        refuse(refusals, "CRIU %s here cannot restore what CRIU %.32s there dumps; use the same",
               here->criu, there->criu);
    check_processor(there, here, refusals);
}

#define MEGABYTES(bytes) ((double)(bytes) / (1 << 20))

static bool is_in_memory(const char *path)
{
    struct statfs about;
    return statfs(path, &about) == 0 && about.f_type == TMPFS_MAGIC;
}

void machine_check_space(uint64_t memory, const Freezepoint__Stream__Machine *here,
                         const char *store_path, struct refusals *refusals)
{
    bool both = is_in_memory(store_path) && memory <= UINT64_MAX / 2;
    if ((both ? 2 * memory : memory) > here->memory_free)
        refuse(refusals,
               "the program has %.0f MB in memory%s and %.0f MB are free here; free some, or end "
               "other programs",
               MEGABYTES(memory), both ? ", its image here as much again" : "",
               MEGABYTES(here->memory_free));
    if (memory > here->disk_free)
        refuse(refusals,
               "its image takes about %.0f MB and '%s' has %.0f MB free; choose another place: "
               "receive --images DIR",
               MEGABYTES(memory), store_path, MEGABYTES(here->disk_free));
}

static void try_probe(const char *name, struct refusals *refusals)
{
    for (const struct probe *probe = probes; probe->name; probe++) {
        struct probe_result result;
        if (strcmp(probe->name, name) != 0)
            continue;
        probe_run(probe, &result);
        if (result.status == PROBE_MISSING)
            refuse(refusals, "%s here: %s; %s", name, result.found, result.remedy);
    }
}

void machine_check_kernel(bool connections, struct refusals *refusals)
{
    static const char *const names[] = {"seccomp-notify", "cgroup-freezer", "process-memory",
                                        "pidfd",          "namespaces",     "runtime-dir"};
    size_t before = refusals->count;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        try_probe(names[i], refusals);
    if (connections && refusals->count == before)
        try_probe("tcp-established", refusals);
}
