/* The program's and its libraries' ELF files. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tests/fuzz/fuzz.h"
#include "trigger/symbols.h"

static bool look_at(const struct symbol *symbol, void *context)
{
    size_t *total = context;
    *total += strlen(symbol->name) + (symbol->version ? strlen(symbol->version) : 0);
    return true;
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
    return 0;
}

#define SEED_SIZE_MAX (64 * 1024)

/* A small one of the machine's. */
uint8_t *fuzz_seed(size_t index, size_t *size)
{
    if (index)
        return NULL;
    _cleanup_close_ int fd = open("/bin/true", O_RDONLY | O_CLOEXEC);
    uint8_t *bytes = malloc(SEED_SIZE_MAX);
    ssize_t n = fd < 0 || !bytes ? -1 : fd_read_all(fd, bytes, SEED_SIZE_MAX);
    if (n <= 0)
        abort();
    *size = (size_t)n;
    return bytes;
}
