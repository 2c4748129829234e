/* Images: made, opened, compared with their sums, found stale, removed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <sys/stat.h>

#include "lib/dir.h"
#include "lib/image_manifest.h"
#include "tests/unit/image_sample.h"

struct place {
    char top[64];
    struct store store;
    struct image image; /* x@1 */
};

static int setup(void **state)
{
    struct place *place = calloc(1, sizeof(*place));
    struct err err;
    uint64_t generation;
    *state = place;
    place->image = IMAGE_NONE;
    snprintf(place->top, sizeof(place->top), "/tmp/freezepoint-image-XXXXXX");
    if (!mkdtemp(place->top) || store_open(place->top, &place->store, &err) ||
        sample_commit(&place->store, "x", &generation, &err) ||
        image_open(&place->store, "x", &place->image, &err))
        return -1;
    return 0;
}

static int teardown(void **state)
{
    struct place *place = *state;
    struct err err;
    image_close(&place->image);
    store_close(&place->store);
    int error = dir_remove_recursive(AT_FDCWD, place->top, &err);
    free(place);
    return error;
}

static void expect_text(const struct err *err, const char *text)
{
    if (!strstr(err->text, text))
        fail_msg("'%s' does not say '%s'", err->text, text);
}

static int verify(const struct image *image, struct err *err)
{
    volatile bool cancel = false;
    int error = image_verify_small(image, err);
    return error ? error : image_verify_pages(image, &cancel, err);
}

static int open_and_verify(const struct store *store, const char *spec, struct err *err)
{
    _cleanup_(image_close) struct image image = IMAGE_NONE;
    int error = image_open(store, spec, &image, err);
    return error ? error : verify(&image, err);
}

static void commit_is_read_back(void **state)
{
    struct place *place = *state;
    const struct image *image = &place->image;
    struct err err;
    char path[PATH_MAX];
    assert_int_equal(image->generation, 1);
    assert_string_equal(image->label, "x@1");
    snprintf(path, sizeof(path), "%s/x/1", place->top);
    assert_string_equal(image->path, path);
    snprintf(path, sizeof(path), "%s/x/1/criu", place->top);
    assert_string_equal(image->criu_path, path);
    assert_int_equal(image->manifest->generation, 1);
    assert_int_equal(image->manifest->format, IMAGE_FORMAT);
    assert_int_equal(image->manifest->n_files, 5);
    assert_int_equal(image->manifest->root_pid, 77);
    assert_int_equal(verify(image, &err), 0);
    struct image_size size;
    assert_int_equal(image_measure(image, &size, &err), 0);
    assert_true(size.apparent > SAMPLE_PAGES_SIZE + 8700 && size.apparent < 2 * SAMPLE_PAGES_SIZE);
    assert_true(size.on_disk > SAMPLE_PAGES_SIZE);
}

static void everything_is_ours_alone(void **state)
{
    static const struct {
        const char *path;
        mode_t mode;
    } expected[] = {{"x", 0700},
                    {"x/1", 0700},
                    {"x/1/criu", 0700},
                    {"x/1/" IMAGE_MANIFEST, 0600},
                    {"x/1/" IMAGE_PRELOAD, 0600},
                    {"x/1/criu/pages-1.img", 0600}};
    struct place *place = *state;
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        struct stat about;
        assert_int_equal(fstatat(place->store.fd, expected[i].path, &about, 0), 0);
        assert_int_equal(about.st_mode & 07777, expected[i].mode);
    }
}

static void all_spellings_open(void **state)
{
    struct place *place = *state;
    struct err err;
    uint64_t generation;
    char path[PATH_MAX];
    struct image image = IMAGE_NONE;
    assert_int_equal(sample_commit(&place->store, "x", &generation, &err), 0);
    assert_int_equal(image_open(&place->store, "x", &image, &err), 0);
    assert_int_equal(image.generation, 2);
    image_close(&image);
    assert_int_equal(image_open(&place->store, "x@1", &image, &err), 0);
    assert_int_equal(image.generation, 1);
    image_close(&image);
    static const char *const below[] = {"x/1", "x/latest", "x/2/"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", place->top, below[i]);
        assert_int_equal(image_open(NULL, path, &image, &err), 0);
        assert_int_equal(image.generation, i == 0 ? 1 : 2);
        snprintf(path, sizeof(path), "%s/x/%d", place->top, i == 0 ? 1 : 2);
        assert_string_equal(image.path, path);
        assert_int_equal(verify(&image, &err), 0);
        image_close(&image);
    }
}

static void wrong_spellings_are_told(void **state)
{
    struct place *place = *state;
    struct err err;
    struct image image = IMAGE_NONE;
    static const char *const usage[] = {"", "@1", "x@", "x@0", "x@-1", "x@latest", ".x", "x@1@"};
    for (size_t i = 0; i < sizeof(usage) / sizeof(usage[0]); i++) {
        assert_int_equal(image_open(&place->store, usage[i], &image, &err), -EINVAL);
        assert_int_equal(err.kind, ERR_USAGE);
    }
    assert_int_equal(image_open(&place->store, "y", &image, &err), -ENOENT);
    expect_text(&err, "there is no image 'y' in '/tmp/");
    assert_int_equal(image_open(&place->store, "x@2", &image, &err), -ENOENT);
    expect_text(&err, "there is no image 'x@2'");
    assert_int_equal(image_open(NULL, "x", &image, &err), -ENOENT);
    assert_int_equal(image_open(NULL, "/nowhere/x", &image, &err), -ENOENT);
    assert_int_equal(image.dirfd, -1);
}

static const char *const files[] = {IMAGE_PRELOAD, "criu/core-77.img", "criu/pages-1.img",
                                    "criu/dump.log", "criu/inventory.img"};

static void expect_damage(struct place *place, const char *path)
{
    struct err err = {0};
    assert_int_equal(verify(&place->image, &err), -EBADMSG);
    expect_text(&err, "image 'x@1' is damaged: ");
    expect_text(&err, path);
    expect_text(&err, "take a new checkpoint");
}

static int open_in_image(struct place *place, const char *path, int flags)
{
    int fd = openat(place->image.dirfd, path, flags | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

static void a_changed_byte_is_found(void **state)
{
    struct place *place = *state;
    struct err err;
    for (size_t i = 0; i < 4; i++) {
        _cleanup_close_ int fd = open_in_image(place, files[i], O_RDWR);
        struct stat about;
        fstat(fd, &about);
        for (off_t at = 0; at < about.st_size; at += about.st_size / 3) {
            char kept, changed;
            assert_int_equal(pread(fd, &kept, 1, at), 1);
            changed = (char)(kept ^ 4);
            assert_int_equal(pwrite(fd, &changed, 1, at), 1);
            expect_damage(place, files[i]);
            assert_int_equal(pwrite(fd, &kept, 1, at), 1);
        }
    }
    assert_int_equal(verify(&place->image, &err), 0);
}

static void a_changed_size_is_found(void **state)
{
    struct place *place = *state;
    for (size_t i = 0; i < 5; i++) {
        _cleanup_close_ int fd = open_in_image(place, files[i], O_RDWR);
        struct stat about;
        fstat(fd, &about);
        assert_int_equal(ftruncate(fd, about.st_size + 1), 0);
        expect_damage(place, files[i]);
        /* Of memory pages too, before anybody reads them. */
        struct err err;
        assert_int_equal(image_verify_small(&place->image, &err), -EBADMSG);
        assert_int_equal(ftruncate(fd, about.st_size), 0);
    }
}

static void a_missing_or_odd_file_is_found(void **state)
{
    struct place *place = *state;
    int dirfd = place->image.dirfd;
    struct err err;
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(renameat(dirfd, files[i], dirfd, "aside"), 0);
        expect_damage(place, "is missing");
        assert_int_equal(symlinkat(i == 0 ? "aside" : "../aside", dirfd, files[i]), 0);
        expect_damage(place, files[i]);
        unlinkat(dirfd, files[i], 0);
        assert_int_equal(mkfifoat(dirfd, files[i], 0600), 0);
        expect_damage(place, "is not a plain file");
        unlinkat(dirfd, files[i], 0);
        assert_int_equal(renameat(dirfd, "aside", dirfd, files[i]), 0);
    }
    assert_int_equal(verify(&place->image, &err), 0);
}

static void a_foreign_file_is_found(void **state)
{
    struct place *place = *state;
    int dirfd = place->image.dirfd;
    struct err err;
    fd_close(&(int){open_in_image(place, "criu/core-78.img", O_CREAT | O_WRONLY)});
    expect_damage(place, "criu/core-78.img does not belong to it");
    unlinkat(dirfd, "criu/core-78.img", 0);
    /* CRIU reads the images of an earlier dump through this link. */
    assert_int_equal(symlinkat("/tmp", dirfd, "criu/parent"), 0);
    expect_damage(place, "criu/parent");
    unlinkat(dirfd, "criu/parent", 0);
    fd_close(&(int){open_in_image(place, "criu/stats-restore", O_CREAT | O_WRONLY)});
    fd_close(&(int){open_in_image(place, "criu/restore.log", O_CREAT | O_WRONLY)});
    assert_int_equal(verify(&place->image, &err), 0);
}

static void anothers_file_is_refused(void **state)
{
    struct place *place = *state;
    struct err err;
    const char *const parts[] = {"", "criu", IMAGE_MANIFEST, "criu/core-77.img"};
    for (size_t i = 0; i < 4; i++) {
        char path[64];
        struct stat about;
        snprintf(path, sizeof(path), "x/1/%s", parts[i]);
        assert_int_equal(fstatat(place->store.fd, path, &about, 0), 0);
        assert_int_equal(fchmodat(place->store.fd, path, 0666, 0), 0);
        assert_int_equal(open_and_verify(&place->store, "x", &err), -EPERM);
        expect_text(&err, "image 'x@1' is refused: ");
        assert_int_equal(fchmodat(place->store.fd, path, about.st_mode, 0), 0);
        if (geteuid() != 0)
            continue;
        assert_int_equal(fchownat(place->store.fd, path, 1000, -1, 0), 0);
        assert_int_equal(open_and_verify(&place->store, "x", &err), -EPERM);
        expect_text(&err, "belongs to user 1000");
        assert_int_equal(fchownat(place->store.fd, path, 0, -1, 0), 0);
    }
    assert_int_equal(open_and_verify(&place->store, "x", &err), 0);
}

static void links_inside_are_not_followed(void **state)
{
    static const char *const parts[] = {"x", "x/1", "x/1/criu", "x/1/" IMAGE_MANIFEST};
    struct place *place = *state;
    char elsewhere[128], kept[160];
    struct err err;
    snprintf(elsewhere, sizeof(elsewhere), "%s.elsewhere", place->top);
    assert_int_equal(mkdir(elsewhere, 0700), 0);
    snprintf(kept, sizeof(kept), "%s/kept", elsewhere);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(renameat(place->store.fd, parts[i], AT_FDCWD, kept), 0);
        assert_int_equal(symlinkat(kept, place->store.fd, parts[i]), 0);
        assert_true(open_and_verify(&place->store, "x@1", &err) < 0);
        unlinkat(place->store.fd, parts[i], 0);
        assert_int_equal(renameat(AT_FDCWD, kept, place->store.fd, parts[i]), 0);
    }
    assert_int_equal(rmdir(elsewhere), 0);
    assert_int_equal(open_and_verify(&place->store, "x@1", &err), 0);
}

static void damaged_manifest_is_told(void **state)
{
    struct place *place = *state;
    struct err err;
    _cleanup_close_ int fd = open_in_image(place, IMAGE_MANIFEST, O_RDWR);
    struct stat about;
    fstat(fd, &about);
    char byte;
    assert_int_equal(pread(fd, &byte, 1, 60), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, 60), 1);
    assert_int_equal(open_and_verify(&place->store, "x", &err), -EBADMSG);
    expect_text(&err, "image 'x@1' is damaged: manifest.pb does not match its checksum");
    assert_int_equal(ftruncate(fd, 10), 0);
    assert_int_equal(open_and_verify(&place->store, "x", &err), -EBADMSG);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(open_and_verify(&place->store, "x", &err), -EBADMSG);
    assert_int_equal(ftruncate(fd, 1LL << 40), 0);
    assert_int_equal(open_and_verify(&place->store, "x", &err), -EBADMSG);
    unlinkat(place->image.dirfd, IMAGE_MANIFEST, 0);
    assert_int_equal(open_and_verify(&place->store, "x", &err), -EBADMSG);
    expect_text(&err, "manifest.pb is missing");
}

static void pages_can_be_cancelled(void **state)
{
    struct place *place = *state;
    struct err err;
    volatile bool cancel = true;
    assert_int_equal(image_verify_pages(&place->image, &cancel, &err), -ECANCELED);
}

static void open_image_is_not_removed(void **state)
{
    struct place *place = *state;
    struct err err;
    assert_int_equal(image_remove(&place->store, "x", 1, &err), -EBUSY);
    assert_int_equal(verify(&place->image, &err), 0);
    image_close(&place->image);
    assert_int_equal(image_remove(&place->store, "x", 1, &err), 0);
    assert_int_equal(open_and_verify(&place->store, "x", &err), -ENOENT);
}

/* Fingerprints one file of the test's own. */
static void fingerprint(struct place *place, char path[128])
{
    struct stat about;
    assert_int_equal(sample_write(place->top, "program", 'p', 100), 0);
    snprintf(path, 128, "%s/program", place->top);
    assert_int_equal(stat(path, &about), 0);
    Freezepoint__Fingerprint *print =
        SAMPLE_LIST(place->image.manifest, fingerprint, Freezepoint__Fingerprint,
                    freezepoint__fingerprint__init);
    print->path = sample_bytes(path);
    print->size = (uint64_t)about.st_size;
    print->inode = about.st_ino;
    print->mtime_ns = about.st_mtim.tv_sec * 1000000000LL + about.st_mtim.tv_nsec;
}

static void expect_stale(const struct image *image, const struct image_wanted *wanted,
                         const char *text)
{
    char why[IMAGE_WHY_MAX] = "";
    assert_false(image_check_fresh(image, wanted, why));
    if (!strstr(why, text))
        fail_msg("'%s' does not say '%s'", why, text);
}

static void another_command_is_stale(void **state)
{
    struct place *place = *state;
    const char *argv[] = {"server", "--port=1", NULL, NULL};
    const char *specs[] = {"listen", "accept"};
    struct image_wanted wanted = {.argv = argv,
                                  .executable = "/usr/bin/server",
                                  .cwd = "/srv",
                                  .specs = specs,
                                  .spec_count = 1};
    char why[IMAGE_WHY_MAX];
    assert_true(image_check_fresh(&place->image, &wanted, why));
    argv[1] = "--port=12";
    expect_stale(&place->image, &wanted, "the command line differs");
    argv[1] = "--port=1";
    argv[2] = "more";
    expect_stale(&place->image, &wanted, "the command line differs");
    argv[1] = argv[2] = NULL;
    expect_stale(&place->image, &wanted, "the command line differs");
    argv[1] = "--port=1";
    wanted.executable = "/usr/bin/server2";
    expect_stale(&place->image, &wanted, "the program's file is another");
    wanted.executable = "/usr/bin/server";
    wanted.cwd = "/";
    expect_stale(&place->image, &wanted, "the working directory differs");
    wanted.cwd = "/srv";
    wanted.spec_count = 2;
    expect_stale(&place->image, &wanted, "--at differs");
    wanted.spec_count = 0;
    expect_stale(&place->image, &wanted, "--at differs");
    specs[0] = "accept";
    wanted.spec_count = 1;
    expect_stale(&place->image, &wanted, "--at differs");
}

static void a_changed_program_is_stale(void **state)
{
    struct place *place = *state;
    const char *const argv[] = {"server", "--port=1", NULL};
    const char *const specs[] = {"listen"};
    struct image_wanted wanted = {.argv = argv,
                                  .executable = "/usr/bin/server",
                                  .cwd = "/srv",
                                  .specs = specs,
                                  .spec_count = 1};
    char path[128], why[IMAGE_WHY_MAX];
    fingerprint(place, path);
    assert_true(image_check_fresh(&place->image, &wanted, why));
    struct stat about;
    assert_int_equal(stat(path, &about), 0);
    struct timespec times[2] = {about.st_atim, about.st_mtim};
    times[1].tv_nsec ^= 1;
    utimensat(AT_FDCWD, path, times, 0);
    expect_stale(&place->image, &wanted, "program' has changed since");
    times[1].tv_nsec ^= 1;
    utimensat(AT_FDCWD, path, times, 0);
    assert_true(image_check_fresh(&place->image, &wanted, why));
    assert_int_equal(truncate(path, 99), 0);
    utimensat(AT_FDCWD, path, times, 0);
    expect_stale(&place->image, &wanted, "program' has changed since");
    unlink(path);
    expect_stale(&place->image, &wanted, "program': No such file");
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(commit_is_read_back),
        TEST(everything_is_ours_alone),
        TEST(all_spellings_open),
        TEST(wrong_spellings_are_told),
        TEST(a_changed_byte_is_found),
        TEST(a_changed_size_is_found),
        TEST(a_missing_or_odd_file_is_found),
        TEST(a_foreign_file_is_found),
        TEST(anothers_file_is_refused),
        TEST(links_inside_are_not_followed),
        TEST(damaged_manifest_is_told),
        TEST(pages_can_be_cancelled),
        TEST(open_image_is_not_removed),
        TEST(another_command_is_stale),
        TEST(a_changed_program_is_stale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
