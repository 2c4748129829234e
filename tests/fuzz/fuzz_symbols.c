/* The program's and its libraries' ELF files. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tests/fuzz/fuzz.h"
#include "trigger/debug_file.h"
#include "trigger/symbols.h"
#include "trigger/target.h"
#include "trigger/usdt.h"

static bool look_at(const struct symbol *symbol, void *context)
{
    size_t *total = context;
    *total += strlen(symbol->name) + (symbol->version ? strlen(symbol->version) : 0);
    return true;
}

static bool look_at_site(const struct usdt_site *site, void *context)
{
    size_t *total = context;
    *total += strlen(site->provider) + strlen(site->name);
    return true;
}

static void find_target(const char *path, const char *kind, const char *what)
{
    char spec[128];
    struct point point;
    struct targets targets = {NULL};
    struct err err;
    snprintf(spec, sizeof(spec), "%s:%s:%s", kind, path, what);
    if (point_parse(spec, &point, &err))
        abort();
    target_find(&point, &targets, &err);
    targets_release(&targets);
    point_release(&point);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    _cleanup_close_ int fd = memfd_create("elf", MFD_CLOEXEC);
    if (fd < 0 || fd_write_all(fd, bytes, size) != (ssize_t)size)
        return 0;
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    size_t total = 0;
    struct err err;
    symbols_visit_dynamic(path, look_at, &total, &err);
    symbols_visit_static(path, look_at, &total, &err);
    usdt_visit(path, look_at_site, &total, &err);
    char debug[PATH_MAX];
    debug_file_find(path, debug);
    find_target(path, "usdt", "freezepoint:point");
    find_target(path, "probe", "fz_constructor");
    find_target(path, "probe", "0x3010");
    return 0;
}

#define SEED_SIZE_MAX (128 * 1024)

extern const unsigned char preload_template[], preload_template_end[];

/* The preload library, which has a tracepoint, and a small one of the machine's. */
uint8_t *fuzz_seed(size_t index, size_t *size)
{
    if (index > 1)
        return NULL;
    _cleanup_close_ int fd = open("/bin/true", O_RDONLY | O_CLOEXEC);
    uint8_t *bytes = malloc(SEED_SIZE_MAX);
    *size = (size_t)(preload_template_end - preload_template);
    if (!bytes || fd < 0 || *size > SEED_SIZE_MAX)
        abort();
    if (index == 0) {
        memcpy(bytes, preload_template, *size);
        return bytes;
    }
    ssize_t n = fd_read_all(fd, bytes, SEED_SIZE_MAX);
    if (n <= 0)
        abort();
    *size = (size_t)n;
    return bytes;
}
