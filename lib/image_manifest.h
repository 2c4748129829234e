/*
 * The bytes of manifest.pb: a header of 32 bytes, little-endian, and the packed
 * message behind it.
 *   0  8  magic
 *   8  4  format
 *  12  4  zero
 *  16  8  length of the message
 *  24  8  XXH3 (64 bits) of bytes 0 .. 23 and the message
 * The header stays as it is in all formats, so that a newer format can be told
 * from damage.
 *
 * No state; threads may call at will.
 */
#ifndef FREEZEPOINT_IMAGE_MANIFEST_H
#define FREEZEPOINT_IMAGE_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "manifest.pb-c.h"

#define MANIFEST_SIZE_MAX (16U << 20)

/* Header and message; *bytes is malloc'ed.  Refuses (-EBADMSG) what
 * manifest_decode() would. */
int manifest_encode(const Freezepoint__Manifest *manifest, uint8_t **bytes, size_t *size,
                    struct err *err);

/*
 * For any bytes.  -EBADMSG: damaged, -ENOTSUP: a newer format; the text says it
 * without the image's name.
 *
 * What comes out holds: host, point, command, preload and timings are there;
 * argv is not empty; no bytes field has a NUL in it; tcp and what stdio says are
 * in range; the name is one that the store takes; files are sorted by path, none
 * twice, paths relative and without empty, "." or ".." parts; preload.file is one
 * of them; root_pid is one of the processes; pids are 1 .. max_pid, which is at
 * most INT_MAX; stdio's fds are 0 .. 2, each at most once; point.rule is an index
 * into points, unless the reason is a request.
 * *out is freed with freezepoint__manifest__free_unpacked().
 */
int manifest_decode(const uint8_t *bytes, size_t size, Freezepoint__Manifest **out,
                    struct err *err);

/* Whether it is CRIU's memory pages, criu/pages-*.img. */
bool manifest_is_pages(const Freezepoint__File *file);

/* The file at `path`, or NULL.  The files must be sorted. */
const Freezepoint__File *manifest_find_file(const Freezepoint__Manifest *manifest, const char *path,
                                            size_t length);

void manifest_sort_files(Freezepoint__Manifest *manifest);

#endif
