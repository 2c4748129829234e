#include "trigger/debug_file.h"

#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zlib.h>

#include "lib/fd.h"
#include "trigger/elf_file.h"

#define ROOT         "/usr/lib/debug"
#define BUILD_ID_MAX 64
#define CHUNK        (64 * 1024)

struct build_id {
    unsigned char bytes[BUILD_ID_MAX];
    size_t size;
};

static void read_build_id(const struct elf_file *file, struct build_id *out)
{
    GElf_Shdr header;
    GElf_Nhdr note;
    size_t name, contents;
    out->size = 0;
    Elf_Data *data = elf_file_section(file, ".note.gnu.build-id", &header);
    if (!data || !gelf_getnote(data, 0, &note, &name, &contents) ||
        note.n_type != NT_GNU_BUILD_ID || note.n_namesz != sizeof(ELF_NOTE_GNU) ||
        memcmp((const char *)data->d_buf + name, ELF_NOTE_GNU, sizeof(ELF_NOTE_GNU)) != 0 ||
        note.n_descsz < 2 || note.n_descsz > BUILD_ID_MAX)
        return;
    out->size = note.n_descsz;
    memcpy(out->bytes, (const char *)data->d_buf + contents, out->size);
}

static bool has_build_id(const char *path, const struct build_id *wanted)
{
    _cleanup_(elf_file_close) struct elf_file file = ELF_FILE_NONE;
    struct err ignored;
    struct build_id id;
    if (elf_file_open(path, &file, &ignored))
        return false;
    read_build_id(&file, &id);
    return id.size == wanted->size && !memcmp(id.bytes, wanted->bytes, id.size);
}

static bool find_by_build_id(const char *root, const struct elf_file *file, char out[PATH_MAX])
{
    struct build_id id;
    read_build_id(file, &id);
    if (!id.size)
        return false;
    char digits[2 * BUILD_ID_MAX + 1];
    for (size_t i = 0; i < id.size; i++)
        snprintf(digits + 2 * i, 3, "%02x", id.bytes[i]);
    int length = snprintf(out, PATH_MAX, "%s/.build-id/%.2s/%s.debug", root, digits, digits + 2);
    return length < PATH_MAX && has_build_id(out, &id);
}

static bool has_checksum(const char *path, uint32_t wanted)
{
    _cleanup_(elf_file_close) struct elf_file file = ELF_FILE_NONE;
    _cleanup_free_ unsigned char *chunk = malloc(CHUNK);
    struct err ignored;
    if (!chunk || elf_file_open(path, &file, &ignored))
        return false;
    uLong sum = crc32(0, NULL, 0);
    ssize_t n;
    for (off_t at = 0; (n = pread(file.fd, chunk, CHUNK, at)) > 0; at += n)
        sum = crc32(sum, chunk, (uInt)n);
    return n == 0 && sum == wanted;
}

/* A name, padded to four bytes, and the checksum. */
static bool find_by_link(const char *root, const char *path, const struct elf_file *file,
                         char out[PATH_MAX])
{
    GElf_Shdr header;
    uint32_t sum;
    Elf_Data *data = elf_file_section(file, ".gnu_debuglink", &header);
    const char *name = data ? data->d_buf : NULL;
    size_t length = name ? strnlen(name, data->d_size) : 0;
    size_t at = (length + 1 + 3) & ~(size_t)3;
    if (!length || at + sizeof(sum) > data->d_size || memchr(name, '/', length))
        return false;
    memcpy(&sum, name + at, sizeof(sum));
    _cleanup_free_ char *real = realpath(path, NULL);
    if (!real)
        return false;
    int folder = (int)(strrchr(real, '/') - real);
    int written = snprintf(out, PATH_MAX, "%s%.*s/%s", root, folder, real, name);
    return written < PATH_MAX && has_checksum(out, sum);
}

bool debug_file_find_below(const char *root, const char *path, char out[PATH_MAX])
{
    _cleanup_(elf_file_close) struct elf_file file = ELF_FILE_NONE;
    struct err ignored;
    if (elf_file_open(path, &file, &ignored))
        return false;
    return find_by_build_id(root, &file, out) || find_by_link(root, path, &file, out);
}

bool debug_file_find(const char *path, char out[PATH_MAX])
{
    return debug_file_find_below(ROOT, path, out);
}
