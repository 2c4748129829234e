#include "lib/image_manifest.h"

#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/fd.h"
#include "lib/image.h"
#include "lib/job.h"

/* Unpacked, a message is larger than its bytes, an empty part most of all. */
#define UNPACKED_SIZE_MAX (64U << 20)

static const char magic[8] = {'\x89', 'F', 'Z', 'I', 'M', 'A', 'G', '\n'};

struct header {
    char magic[8];
    uint32_t format;
    uint32_t zero;
    uint64_t length;
    uint64_t sum;
};

_Static_assert(sizeof(struct header) == 32, "the header is part of the format");

static int sum_of(const struct header *header, const uint8_t *message, size_t length, uint64_t *sum,
                  struct err *err)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        return err_set(err, ENOMEM, "sum of the manifest");
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, header, offsetof(struct header, sum));
    XXH3_64bits_update(state, message, length);
    *sum = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return 0;
}

static bool equals(const ProtobufCBinaryData *data, const void *bytes, size_t length)
{
    return data->len == length && (length == 0 || !memcmp(data->data, bytes, length));
}

static bool is_text(const ProtobufCBinaryData *data)
{
    return data->len == 0 || !memchr(data->data, '\0', data->len);
}

static int compare_paths(const ProtobufCBinaryData *left, const ProtobufCBinaryData *right)
{
    size_t shorter = left->len < right->len ? left->len : right->len;
    int order = shorter ? memcmp(left->data, right->data, shorter) : 0;
    return order ? order : (left->len > right->len) - (left->len < right->len);
}

/* Relative, and nothing in it that could lead out of the directory. */
static bool is_inner_path(const ProtobufCBinaryData *path)
{
    if (path->len == 0 || path->len >= NAME_MAX || !is_text(path))
        return false;
    const char *part = (const char *)path->data, *end = part + path->len;
    for (;;) {
        const char *slash = memchr(part, '/', (size_t)(end - part));
        size_t length = (size_t)((slash ? slash : end) - part);
        if (length == 0 || (length == 1 && part[0] == '.') ||
            (length == 2 && part[0] == '.' && part[1] == '.'))
            return false;
        if (!slash)
            return true;
        part = slash + 1;
    }
}

static int bad(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int bad(struct err *err, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return err_text(err, EBADMSG, IMAGE_MANIFEST " %s", text);
}

static int check_files(const Freezepoint__Manifest *manifest, struct err *err)
{
    for (size_t i = 0; i < manifest->n_files; i++) {
        const ProtobufCBinaryData *path = &manifest->files[i]->path;
        if (!is_inner_path(path))
            return bad(err, "lists a file at an odd path");
        if (equals(path, IMAGE_MANIFEST, strlen(IMAGE_MANIFEST)))
            return bad(err, "lists itself");
        if (i && compare_paths(&manifest->files[i - 1]->path, path) >= 0)
            return bad(err, "lists its files out of order");
    }
    const Freezepoint__Preload *preload = manifest->preload;
    if (preload->path.len == 0 || preload->path.len >= PATH_MAX || !is_text(&preload->path))
        return bad(err, "has no path of the preload library");
    if (!manifest_find_file(manifest, (const char *)preload->file.data, preload->file.len))
        return bad(err, "does not list the preload library's file");
    return 0;
}

static int check_command(const Freezepoint__Manifest *manifest, struct err *err)
{
    const Freezepoint__Command *command = manifest->command;
    bool text = is_text(&command->executable) && is_text(&command->cwd);
    for (size_t i = 0; i < command->n_argv; i++)
        text = text && is_text(&command->argv[i]);
    if (command->n_argv == 0 || !text)
        return bad(err, "has no proper command");
    return 0;
}

static int check_processes(const Freezepoint__Manifest *manifest, struct err *err)
{
    bool root = false;
    if (manifest->root_pid == 0 || manifest->max_pid > INT_MAX)
        return bad(err, "has an odd process number");
    for (size_t i = 0; i < manifest->n_processes; i++) {
        const Freezepoint__Process *process = manifest->processes[i];
        if (process->pid == 0 || process->pid > manifest->max_pid)
            return bad(err, "has an odd process number");
        if (!is_text(&process->comm) || !is_text(&process->executable))
            return bad(err, "has an odd name of a process");
        root |= process->pid == manifest->root_pid;
    }
    return root ? 0 : bad(err, "does not describe the root process");
}

static int check_points(const Freezepoint__Manifest *manifest, struct err *err)
{
    const Freezepoint__Point *point = manifest->point;
    bool at_point = manifest->reason != FREEZEPOINT__REASON__REASON_REQUEST;
    if ((at_point && point->rule >= manifest->n_points) || !is_text(&point->library) ||
        !is_text(&point->comm))
        return bad(err, "has an odd point");
    for (size_t i = 0; i < manifest->n_points; i++)
        if (!is_text(&manifest->points[i]->library))
            return bad(err, "has an odd point");
    return 0;
}

static int check_carried(const Freezepoint__Manifest *manifest, struct err *err)
{
    for (size_t i = 0; i < manifest->n_carried; i++) {
        const Freezepoint__CarriedFile *carried = manifest->carried[i];
        if (carried->path.len < 2 || carried->path.len >= PATH_MAX || !is_text(&carried->path) ||
            carried->path.data[0] != '/')
            return bad(err, "has an odd path of a carried file");
        if (!manifest_find_file(manifest, (const char *)carried->file.data, carried->file.len))
            return bad(err, "does not list a carried file");
    }
    return 0;
}

static int check_streams(const Freezepoint__Manifest *manifest, struct err *err)
{
    unsigned int seen = 0;
    for (size_t i = 0; i < manifest->n_stdio; i++) {
        const Freezepoint__Stdio *stream = manifest->stdio[i];
        if (stream->fd > 2 || (seen & 1U << stream->fd))
            return bad(err, "has an odd descriptor of a stream");
        seen |= 1U << stream->fd;
        if ((unsigned int)stream->kind > FREEZEPOINT__STDIO_KIND__STDIO_TTY ||
            (unsigned int)stream->direction > FREEZEPOINT__STDIO_DIRECTION__STDIO_OUTPUT)
            return bad(err, "has an odd kind of stream");
    }
    return 0;
}

static int check(const Freezepoint__Manifest *manifest, struct err *err)
{
    if (!manifest->host || !manifest->point || !manifest->command || !manifest->preload ||
        !manifest->timings)
        return bad(err, "lacks a part");
    if (!job_name_is_valid(manifest->name))
        return bad(err, "has an odd name");
    if (manifest->generation == 0 || manifest->format != IMAGE_FORMAT)
        return bad(err, "has an odd generation or format");
    if ((unsigned int)manifest->tcp > FREEZEPOINT__TCP_MODE__TCP_CLOSE)
        return bad(err, "has an odd TCP mode");
    for (size_t i = 0; i < manifest->n_fingerprint; i++)
        if (manifest->fingerprint[i]->path.len == 0 || !is_text(&manifest->fingerprint[i]->path))
            return bad(err, "has an odd fingerprint");
    int error = check_files(manifest, err);
    if (!error)
        error = check_command(manifest, err);
    if (!error)
        error = check_processes(manifest, err);
    if (!error)
        error = check_points(manifest, err);
    if (!error)
        error = check_carried(manifest, err);
    return error ? error : check_streams(manifest, err);
}

const Freezepoint__File *manifest_find_file(const Freezepoint__Manifest *manifest, const char *path,
                                            size_t length)
{
    ProtobufCBinaryData wanted = {.len = length, .data = (uint8_t *)path};
    size_t low = 0, high = manifest->n_files;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare_paths(&wanted, &manifest->files[middle]->path);
        if (order == 0)
            return manifest->files[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static int order_of_files(const void *left, const void *right)
{
    const Freezepoint__File *const *a = left, *const *b = right;
    return compare_paths(&(*a)->path, &(*b)->path);
}

void manifest_sort_files(Freezepoint__Manifest *manifest)
{
    if (manifest->n_files)
        qsort(manifest->files, manifest->n_files, sizeof(*manifest->files), order_of_files);
}

bool manifest_is_pages(const Freezepoint__File *file)
{
    static const char prefix[] = IMAGE_CRIU "/pages-";
    static const char suffix[] = ".img";
    size_t length = file->path.len;
    return length >= sizeof(prefix) + sizeof(suffix) - 2 &&
           !memcmp(file->path.data, prefix, sizeof(prefix) - 1) &&
           !memcmp(file->path.data + length - (sizeof(suffix) - 1), suffix, sizeof(suffix) - 1);
}

int manifest_encode(const Freezepoint__Manifest *manifest, uint8_t **bytes, size_t *size,
                    struct err *err)
{
    int error = check(manifest, err);
    if (error)
        return err_wrap(err, "the checkpoint cannot be described");
    size_t length = freezepoint__manifest__get_packed_size(manifest);
    if (length > MANIFEST_SIZE_MAX - sizeof(struct header))
        return err_text(err, EFBIG, "the checkpoint's description is too long (%zu bytes)", length);
    _cleanup_free_ uint8_t *buffer = malloc(sizeof(struct header) + length);
    if (!buffer)
        return err_set(err, ENOMEM, "manifest");
    freezepoint__manifest__pack(manifest, buffer + sizeof(struct header));
    struct header header = {.format = htole32(IMAGE_FORMAT), .length = htole64(length)};
    memcpy(header.magic, magic, sizeof(magic));
    uint64_t sum = 0;
    error = sum_of(&header, buffer + sizeof(header), length, &sum, err);
    if (error)
        return error;
    header.sum = htole64(sum);
    memcpy(buffer, &header, sizeof(header));
    *bytes = steal_pointer(&buffer);
    *size = sizeof(header) + length;
    return 0;
}

static void *allocate_within(void *context, size_t size)
{
    size_t *left = context;
    if (size > *left)
        return NULL;
    *left -= size;
    return malloc(size);
}

static void release(void *context, void *pointer)
{
    (void)context;
    free(pointer);
}

static Freezepoint__Manifest *unpack(const uint8_t *message, size_t length)
{
    size_t left = UNPACKED_SIZE_MAX;
    ProtobufCAllocator allocator = {
        .alloc = allocate_within, .free = release, .allocator_data = &left};
    return freezepoint__manifest__unpack(&allocator, length, message);
}

static int check_header(const uint8_t *bytes, size_t size, struct err *err)
{
    struct header header = {0};
    if (size < sizeof(header))
        return bad(err, "is too short (%zu bytes)", size);
    memcpy(&header, bytes, sizeof(header));
    if (memcmp(header.magic, magic, sizeof(magic)) != 0)
        return bad(err, "is not a manifest");
    if (le64toh(header.length) != size - sizeof(header))
        return bad(err, "has %zu bytes instead of the %llu that it tells", size,
                   (unsigned long long)le64toh(header.length) + sizeof(header));
    uint64_t sum = 0;
    int error = sum_of(&header, bytes + sizeof(header), size - sizeof(header), &sum, err);
    if (error)
        return error;
    if (le64toh(header.sum) != sum)
        return bad(err, "does not match its checksum");
    uint32_t format = le32toh(header.format);
    if (format > IMAGE_FORMAT)
        return err_text(err, ENOTSUP, "made by a newer freezepoint (format %u, this one reads %u)",
                        format, IMAGE_FORMAT);
    return format == IMAGE_FORMAT ? 0 : bad(err, "has the unknown format %u", format);
}

int manifest_decode(const uint8_t *bytes, size_t size, Freezepoint__Manifest **out, struct err *err)
{
    int error = check_header(bytes, size, err);
    if (error)
        return error;
    Freezepoint__Manifest *manifest =
        unpack(bytes + sizeof(struct header), size - sizeof(struct header));
    if (!manifest)
        return bad(err, "cannot be decoded");
    error = check(manifest, err);
    if (error)
        freezepoint__manifest__free_unpacked(manifest, NULL);
    else
        *out = manifest;
    return error;
}
