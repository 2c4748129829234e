/*
 * What a job's supervisor tells of it, for `freezepoint ps`: the file `status` in the
 * job's runtime directory.  Only what cannot be seen from outside; the rest is in the
 * job's group (lib/job_view.h).
 *
 * A header of 24 bytes, little-endian, and the packed message (proto/status.proto)
 * behind it.  The header stays as it is in all formats.
 *   0  8  magic
 *   8  4  format
 *  12  4  length of the message
 *  16  8  XXH3 (64 bits, the format as its seed) of the message
 *
 * Written by whoever holds the job's lock, whole or not at all; removed with the
 * directory.  No state; threads may call at will.
 */
#ifndef FREEZEPOINT_JOB_STATUS_H
#define FREEZEPOINT_JOB_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "status.pb-c.h"

/* What this program writes, and the newest that it reads. */
#define JOB_STATUS_FORMAT 1

#define JOB_STATUS_FILE     "status"
#define JOB_STATUS_SIZE_MAX (16U << 10)

/* Header and message; *bytes is malloc'ed.  Refuses (-EBADMSG) what
 * job_status_decode() would. */
int job_status_encode(const Freezepoint__JobStatus *status, uint8_t **bytes, size_t *size,
                      struct err *err);

/*
 * For any bytes.  -EBADMSG: damaged, -ENOTSUP: a newer format.  What comes out holds:
 * there is a supervisor; process numbers are at most INT_MAX; image_name is empty or
 * one that the store takes; no argument has a NUL in it.
 * *out is freed with freezepoint__job_status__free_unpacked().
 */
int job_status_decode(const uint8_t *bytes, size_t size, Freezepoint__JobStatus **out,
                      struct err *err);

/* In the job's runtime directory.  Reading: -ENOENT where nothing has been told yet. */
int job_status_write(const char *directory, const Freezepoint__JobStatus *status, struct err *err);
int job_status_read(int directory_fd, Freezepoint__JobStatus **out, struct err *err);

/* Enters the calling process as the supervisor. */
int job_status_sign(Freezepoint__JobStatus *status, struct err *err);

/* Whether the supervisor that signed it still lives. */
bool job_status_is_alive(const Freezepoint__JobStatus *status);

#endif
