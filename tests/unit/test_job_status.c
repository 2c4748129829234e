/* What a supervisor tells of its job: the file, and every kind of damage to it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "lib/dir.h"
#include "lib/fd.h"
#include "lib/job_status.h"

#define HEADER_SIZE 24

struct sample {
    Freezepoint__JobStatus status;
    ProtobufCBinaryData argv[3];
    uint8_t *bytes;
    size_t size;
    char directory[64];
    int directory_fd;
};

static ProtobufCBinaryData text(const char *bytes)
{
    return (ProtobufCBinaryData){.len = strlen(bytes), .data = (uint8_t *)bytes};
}

static int setup(void **state)
{
    struct sample *sample = calloc(1, sizeof(*sample));
    struct err err;
    freezepoint__job_status__init(&sample->status);
    sample->argv[0] = text("./server");
    sample->argv[1] = text("\xff not UTF-8 \n");
    sample->argv[2] = text("");
    sample->status.argv = sample->argv;
    sample->status.n_argv = 3;
    sample->status.supervised = true;
    sample->status.root_pid = 77;
    sample->status.image_name = (char *)"server";
    sample->status.restored_from = (char *)"server@4";
    sample->status.generation = 5;
    sample->status.hits = 9;
    sample->status.checkpoints = 1;
    sample->status.last_pause_ns = 10800000;
    snprintf(sample->directory, sizeof(sample->directory), "/tmp/freezepoint-status-XXXXXX");
    *state = sample;
    if (!mkdtemp(sample->directory) || job_status_sign(&sample->status, &err))
        return -1;
    sample->directory_fd = open(sample->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return job_status_encode(&sample->status, &sample->bytes, &sample->size, &err);
}

static int teardown(void **state)
{
    struct sample *sample = *state;
    struct err err;
    int error = dir_remove_recursive(AT_FDCWD, sample->directory, &err);
    close(sample->directory_fd);
    free(sample->bytes);
    free(sample);
    return error;
}

/* In memory of its own, so that reading beyond the end is seen. */
static int decode(const uint8_t *bytes, size_t size, struct err *err)
{
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, bytes, size);
    Freezepoint__JobStatus *status = NULL;
    int error = job_status_decode(copy, size, &status, err);
    free(copy);
    assert_true((error == 0) == (status != NULL));
    if (status)
        freezepoint__job_status__free_unpacked(status, NULL);
    return error;
}

/* Makes length and checksum right again. */
static void seal(uint8_t *bytes, size_t size)
{
    uint32_t format, length = (uint32_t)(size - HEADER_SIZE);
    memcpy(&format, bytes + 8, sizeof(format));
    memcpy(bytes + 12, &length, sizeof(length));
    uint64_t sum = XXH3_64bits_withSeed(bytes + HEADER_SIZE, length, format);
    memcpy(bytes + 16, &sum, sizeof(sum));
}

static void comes_back_equal(void **state)
{
    struct sample *sample = *state;
    struct err err;
    Freezepoint__JobStatus *status;
    assert_int_equal(job_status_decode(sample->bytes, sample->size, &status, &err), 0);
    assert_int_equal(status->supervisor_pid, getpid());
    assert_int_equal(status->n_argv, 3);
    assert_int_equal(status->argv[1].len, strlen("\xff not UTF-8 \n"));
    assert_memory_equal(status->argv[1].data, "\xff not UTF-8 \n", status->argv[1].len);
    assert_string_equal(status->restored_from, "server@4");
    assert_int_equal(status->generation, 5);
    assert_int_equal(status->last_pause_ns, 10800000);
    freezepoint__job_status__free_unpacked(status, NULL);
}

static void every_truncation_is_damage(void **state)
{
    struct sample *sample = *state;
    struct err err;
    for (size_t size = 0; size < sample->size; size++)
        assert_int_equal(decode(sample->bytes, size, &err), -EBADMSG);
}

static void every_flipped_bit_is_damage(void **state)
{
    struct sample *sample = *state;
    struct err err;
    for (size_t bit = 0; bit < sample->size * 8; bit++) {
        sample->bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
        assert_int_equal(decode(sample->bytes, sample->size, &err), -EBADMSG);
        sample->bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
    }
}

static void sealed_changes_do_no_harm(void **state)
{
    struct sample *sample = *state;
    struct err err;
    uint8_t *bytes = malloc(sample->size);
    for (size_t size = HEADER_SIZE; size <= sample->size; size++) {
        for (size_t bit = HEADER_SIZE * 8; bit < size * 8; bit++) {
            memcpy(bytes, sample->bytes, size);
            bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
            seal(bytes, size);
            int error = decode(bytes, size, &err);
            assert_true(error == 0 || error == -EBADMSG);
        }
    }
    free(bytes);
}

static void newer_format_is_told_from_damage(void **state)
{
    struct sample *sample = *state;
    struct err err;
    sample->bytes[8] = JOB_STATUS_FORMAT + 1;
    seal(sample->bytes, sample->size);
    assert_int_equal(decode(sample->bytes, sample->size, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "newer freezepoint (status format 2, this one reads 1)"));
}

static void unknown_fields_are_left_aside(void **state)
{
    struct sample *sample = *state;
    struct err err;
    static const uint8_t field[] = {0x82, 0x7d, 3, 'n', 'e', 'w'}; /* number 2000, bytes */
    uint8_t *bytes = malloc(sample->size + sizeof(field));
    memcpy(bytes, sample->bytes, sample->size);
    memcpy(bytes + sample->size, field, sizeof(field));
    seal(bytes, sample->size + sizeof(field));
    assert_int_equal(decode(bytes, sample->size + sizeof(field), &err), 0);
    free(bytes);
}

static void odd_fields_are_refused(void **state)
{
    struct sample *sample = *state;
    uint8_t *bytes = NULL;
    size_t size;
    struct err err;
#define REFUSED_WITH(place, value, said)                                                           \
    do {                                                                                           \
        __typeof__(place) kept_ = (place);                                                         \
        (place) = (value);                                                                         \
        assert_int_equal(job_status_encode(&sample->status, &bytes, &size, &err), -EBADMSG);       \
        assert_non_null(strstr(err.text, said));                                                   \
        assert_null(bytes);                                                                        \
        (place) = kept_;                                                                           \
    } while (0)
    REFUSED_WITH(sample->status.supervisor_pid, 0, "process number");
    REFUSED_WITH(sample->status.supervisor_pid, 0x80000000U, "process number");
    REFUSED_WITH(sample->status.root_pid, 0x80000000U, "process number");
    REFUSED_WITH(sample->status.image_name, (char *)"a/b", "odd name");
    REFUSED_WITH(sample->argv[2], ((ProtobufCBinaryData){.len = 1, .data = (uint8_t *)""}),
                 "odd argument");
#undef REFUSED_WITH
}

static void what_is_too_long_is_not_written(void **state)
{
    struct sample *sample = *state;
    struct err err;
    char *argument = malloc(JOB_STATUS_SIZE_MAX);
    memset(argument, 'x', JOB_STATUS_SIZE_MAX);
    sample->argv[2] =
        (ProtobufCBinaryData){.len = JOB_STATUS_SIZE_MAX, .data = (uint8_t *)argument};
    assert_int_equal(job_status_write(sample->directory, &sample->status, &err), -EFBIG);
    free(argument);
}

/* -- the file -- */

static int read_back(const struct sample *sample, struct err *err)
{
    Freezepoint__JobStatus *status = NULL;
    int error = job_status_read(sample->directory_fd, &status, err);
    if (!error)
        freezepoint__job_status__free_unpacked(status, NULL);
    return error;
}

static void written_whole_and_for_root_alone(void **state)
{
    struct sample *sample = *state;
    struct err err;
    struct stat about;
    assert_int_equal(read_back(sample, &err), -ENOENT);
    /* What a supervisor left that was killed while it wrote. */
    int fd = openat(sample->directory_fd, "." JOB_STATUS_FILE, O_CREAT | O_WRONLY, 0644);
    assert_int_equal(write(fd, "half", 4), 4);
    close(fd);
    for (int i = 0; i < 2; i++)
        assert_int_equal(job_status_write(sample->directory, &sample->status, &err), 0);
    assert_int_equal(fstatat(sample->directory_fd, JOB_STATUS_FILE, &about, 0), 0);
    assert_int_equal(about.st_mode & 07777, 0600);
    assert_int_equal(about.st_size, sample->size);
    assert_int_equal(faccessat(sample->directory_fd, "." JOB_STATUS_FILE, F_OK, 0), -1);
    assert_int_equal(read_back(sample, &err), 0);
}

static void nowhere_to_write(void **state)
{
    struct sample *sample = *state;
    struct err err;
    assert_int_equal(job_status_write("/tmp/freezepoint-nowhere", &sample->status, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/tmp/freezepoint-nowhere/"));
}

static void odd_files_are_not_read(void **state)
{
    struct sample *sample = *state;
    struct err err;
    assert_int_equal(mkfifoat(sample->directory_fd, JOB_STATUS_FILE, 0600), 0);
    assert_int_equal(read_back(sample, &err), -EBADMSG);
    unlinkat(sample->directory_fd, JOB_STATUS_FILE, 0);
    assert_int_equal(symlinkat("/dev/zero", sample->directory_fd, JOB_STATUS_FILE), 0);
    assert_int_equal(read_back(sample, &err), -ELOOP);
    unlinkat(sample->directory_fd, JOB_STATUS_FILE, 0);
    _cleanup_close_ int fd = openat(sample->directory_fd, JOB_STATUS_FILE, O_CREAT | O_RDWR, 0600);
    assert_int_equal(read_back(sample, &err), -EBADMSG);
    assert_int_equal(ftruncate(fd, 1 << 30), 0);
    assert_int_equal(read_back(sample, &err), -EBADMSG);
}

/* -- the supervisor -- */

static void knows_whether_it_lives(void **state)
{
    struct sample *sample = *state;
    Freezepoint__JobStatus *status = &sample->status;
    assert_true(job_status_is_alive(status));
    status->supervisor_start++; /* another process, with a number used again */
    assert_false(job_status_is_alive(status));
    int told[2];
    assert_int_equal(pipe2(told, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        struct err err;
        int error = job_status_sign(status, &err);
        ssize_t n = write(told[1], &status->supervisor_start, sizeof(status->supervisor_start));
        pause();
        _exit(error || n < 0);
    }
    status->supervisor_pid = (uint32_t)child;
    assert_int_equal(read(told[0], &status->supervisor_start, sizeof(status->supervisor_start)),
                     sizeof(status->supervisor_start));
    assert_true(job_status_is_alive(status));
    kill(child, SIGKILL);
    siginfo_t ignored;
    waitid(P_PID, (id_t)child, &ignored, WEXITED | WNOWAIT);
    assert_false(job_status_is_alive(status)); /* a zombie */
    waitpid(child, NULL, 0);
    assert_false(job_status_is_alive(status));
    close(told[0]);
    close(told[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(comes_back_equal, setup, teardown),
        cmocka_unit_test_setup_teardown(every_truncation_is_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(every_flipped_bit_is_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(sealed_changes_do_no_harm, setup, teardown),
        cmocka_unit_test_setup_teardown(newer_format_is_told_from_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(unknown_fields_are_left_aside, setup, teardown),
        cmocka_unit_test_setup_teardown(odd_fields_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_too_long_is_not_written, setup, teardown),
        cmocka_unit_test_setup_teardown(written_whole_and_for_root_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(nowhere_to_write, setup, teardown),
        cmocka_unit_test_setup_teardown(odd_files_are_not_read, setup, teardown),
        cmocka_unit_test_setup_teardown(knows_whether_it_lives, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
