#include "lib/job_status.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "lib/fd.h"
#include "lib/job.h"
#include "lib/proc.h"

static const char magic[8] = {'\x89', 'F', 'Z', 'S', 'T', 'A', 'T', '\n'};

struct header {
    char magic[8];
    uint32_t format;
    uint32_t length;
    uint64_t sum;
};

_Static_assert(sizeof(struct header) == 24, "the header is part of the format");

static int bad(struct err *err, const char *what)
{
    return err_text(err, EBADMSG, "the job's status %s", what);
}

static int check(const Freezepoint__JobStatus *status, struct err *err)
{
    if (status->supervisor_pid == 0 || status->supervisor_pid > INT_MAX ||
        status->root_pid > INT_MAX)
        return bad(err, "has an odd process number");
    if (status->image_name[0] && !job_name_is_valid(status->image_name))
        return bad(err, "has an odd name");
    for (size_t i = 0; i < status->n_argv; i++)
        if (status->argv[i].len && memchr(status->argv[i].data, '\0', status->argv[i].len))
            return bad(err, "has an odd argument");
    return 0;
}

int job_status_encode(const Freezepoint__JobStatus *status, uint8_t **bytes, size_t *size,
                      struct err *err)
{
    int error = check(status, err);
    if (error)
        return error;
    size_t length = freezepoint__job_status__get_packed_size(status);
    if (length > JOB_STATUS_SIZE_MAX - sizeof(struct header))
        return err_text(err, EFBIG, "the job's status is too long (%zu bytes)", length);
    _cleanup_free_ uint8_t *buffer = malloc(sizeof(struct header) + length);
    if (!buffer)
        return err_set(err, ENOMEM, "the job's status");
    uint8_t *message = buffer + sizeof(struct header);
    freezepoint__job_status__pack(status, message);
    struct header header = {
        .format = htole32(JOB_STATUS_FORMAT),
        .length = htole32((uint32_t)length),
        .sum = htole64(XXH3_64bits_withSeed(message, length, JOB_STATUS_FORMAT)),
    };
    memcpy(header.magic, magic, sizeof(magic));
    memcpy(buffer, &header, sizeof(header));
    *bytes = steal_pointer(&buffer);
    *size = sizeof(header) + length;
    return 0;
}

static int check_header(const uint8_t *bytes, size_t size, struct err *err)
{
    struct header header = {0};
    if (size < sizeof(header) || size > JOB_STATUS_SIZE_MAX)
        return bad(err, "has an odd length");
    memcpy(&header, bytes, sizeof(header));
    if (memcmp(header.magic, magic, sizeof(magic)) != 0)
        return bad(err, "is something else");
    size_t length = size - sizeof(header);
    if (le32toh(header.length) != length)
        return bad(err, "has an odd length");
    uint32_t format = le32toh(header.format);
    if (le64toh(header.sum) != XXH3_64bits_withSeed(bytes + sizeof(header), length, format))
        return bad(err, "does not match its checksum");
    if (format > JOB_STATUS_FORMAT)
        return err_text(err, ENOTSUP,
                        "the job's supervisor is a newer freezepoint (status format %u, this one "
                        "reads %u)",
                        format, JOB_STATUS_FORMAT);
    return format == JOB_STATUS_FORMAT ? 0 : bad(err, "has an unknown format");
}

int job_status_decode(const uint8_t *bytes, size_t size, Freezepoint__JobStatus **out,
                      struct err *err)
{
    int error = check_header(bytes, size, err);
    if (error)
        return error;
    /* At most 16 kB, which cannot become much more. */
    Freezepoint__JobStatus *status = freezepoint__job_status__unpack(
        NULL, size - sizeof(struct header), bytes + sizeof(struct header));
    if (!status)
        return bad(err, "cannot be decoded");
    error = check(status, err);
    if (error)
        freezepoint__job_status__free_unpacked(status, NULL);
    else
        *out = status;
    return error;
}

static int write_file(const char *path, const uint8_t *bytes, size_t size, struct err *err)
{
    unlink(path);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, errno, "make '%s'", path);
    ssize_t n = fd_write_all(fd, bytes, size);
    return n < 0 ? err_set(err, (int)-n, "write '%s'", path) : 0;
}

int job_status_write(const char *directory, const Freezepoint__JobStatus *status, struct err *err)
{
    char path[PATH_MAX + 16], temporary[PATH_MAX + 16];
    _cleanup_free_ uint8_t *bytes = NULL;
    size_t size = 0;
    int error = job_status_encode(status, &bytes, &size, err);
    if (error)
        return error;
    snprintf(path, sizeof(path), "%s/" JOB_STATUS_FILE, directory);
    snprintf(temporary, sizeof(temporary), "%s/." JOB_STATUS_FILE, directory);
    /* Not synced: it need not outlive the kernel. */
    error = write_file(temporary, bytes, size, err);
    if (!error && rename(temporary, path) < 0)
        error = err_set(err, errno, "rename '%s'", temporary);
    if (error)
        unlink(temporary);
    return error;
}

int job_status_read(int directory_fd, Freezepoint__JobStatus **out, struct err *err)
{
    uint8_t bytes[JOB_STATUS_SIZE_MAX + 1];
    struct stat about;
    /* Non-blocking: what is in its place may be a FIFO. */
    _cleanup_close_ int fd =
        openat(directory_fd, JOB_STATUS_FILE, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno, "open the job's status");
    if (fstat(fd, &about) < 0)
        return err_set(err, errno, "fstat of the job's status");
    if (!S_ISREG(about.st_mode))
        return bad(err, "is no file");
    ssize_t n = fd_read_all(fd, bytes, sizeof(bytes));
    if (n < 0)
        return err_set(err, (int)-n, "read the job's status");
    return job_status_decode(bytes, (size_t)n, out, err);
}

int job_status_sign(Freezepoint__JobStatus *status, struct err *err)
{
    pid_t self = getpid();
    int error = proc_start(self, &status->supervisor_start, NULL);
    if (error)
        return err_set(err, -error, "read /proc/self/stat");
    status->supervisor_pid = (uint32_t)self;
    return 0;
}

bool job_status_is_alive(const Freezepoint__JobStatus *status)
{
    uint64_t start;
    char state;
    if (proc_start((pid_t)status->supervisor_pid, &start, &state))
        return false;
    return start == status->supervisor_start && state != 'Z' && state != 'X';
}
