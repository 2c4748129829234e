/* Drafts: writers beside each other, writers that die, file systems that are full. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/unit/image_sample.h"
#include "tests/unit/place.h"

/* In children, where cmocka's asserts would go on with the parent's tests. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

#define CHECK_OK(call)                                                                             \
    do {                                                                                           \
        if (call) {                                                                                \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, err.text);               \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

static pid_t start_child(int (*run)(struct place *place), struct place *place)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(run(place));
    assert_true(pid > 0);
    return pid;
}

static int end_of(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void succeed_as_root(int (*run)(struct place *place), struct place *place)
{
    if (geteuid() != 0)
        skip();
    assert_int_equal(end_of(start_child(run, place)), 0);
}

/* Waits for all before it judges any: none may outlive the test's directory. */
static void expect_all_succeed(const pid_t *pids, int count)
{
    int failed = 0;
    for (int i = 0; i < count; i++)
        failed += end_of(pids[i]) != 0;
    assert_int_equal(failed, 0);
}

static int open_and_verify(const struct store *store, const char *spec, struct err *err)
{
    _cleanup_(image_close) struct image image = IMAGE_NONE;
    volatile bool cancel = false;
    int error = image_open(store, spec, &image, err);
    if (!error)
        error = image_verify_small(&image, err);
    return error ? error : image_verify_pages(&image, &cancel, err);
}

static size_t count_drafts(const struct place *place, const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", place->top, name);
    _cleanup_closedir_ DIR *dir = opendir(path);
    size_t count = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        count += !strncmp(entry->d_name, ".draft-", 7);
    return count;
}

static int count_whole(const struct store_entry *entry, void *context)
{
    if (entry->problem)
        fail_msg("%s@%" PRIu64 ": %s", entry->name, entry->generation, entry->problem);
    char spec[64];
    struct err err;
    snprintf(spec, sizeof(spec), "%s@%" PRIu64, entry->name, entry->generation);
    if (open_and_verify(entry->image ? context : NULL, spec, &err))
        fail_msg("%s", err.text);
    return 0;
}

static void expect_all_whole(struct place *place)
{
    struct err err;
    assert_int_equal(store_list(&place->store, count_whole, &place->store, &err), 0);
}

static void abandoned_draft_leaves_nothing(void **state)
{
    struct place *place = *state;
    struct image_draft draft = IMAGE_DRAFT_NONE;
    struct err err;
    struct stat about;
    image_draft_abandon(&draft);
    assert_int_equal(image_draft_begin(&place->store, "x", &draft, &err), 0);
    assert_int_equal(sample_fill(&draft), 0);
    assert_int_equal(count_drafts(place, "x"), 1);
    assert_int_equal(stat(draft.criu_path, &about), 0);
    assert_int_equal(about.st_mode & 07777, 0700);
    assert_int_equal(open_and_verify(&place->store, "x", &err), -ENOENT);
    image_draft_abandon(&draft);
    image_draft_abandon(&draft);
    assert_int_equal(fstatat(place->store.fd, "x", &about, 0), -1);
}

static void live_drafts_stay(void **state)
{
    struct place *place = *state;
    struct image_draft first = IMAGE_DRAFT_NONE, second = IMAGE_DRAFT_NONE;
    struct err err;
    uint64_t generation;
    assert_int_equal(image_draft_begin(&place->store, "x", &first, &err), 0);
    assert_int_equal(image_draft_begin(&place->store, "x", &second, &err), 0);
    assert_int_equal(sample_commit(&place->store, "x", &generation, &err), 0);
    assert_int_equal(count_drafts(place, "x"), 2);
    assert_int_equal(sample_fill(&first), 0);
    image_draft_abandon(&second);
    Freezepoint__Manifest *manifest = sample_manifest("x");
    assert_int_equal(image_draft_commit(&first, manifest, &generation, &err), 0);
    assert_int_equal(generation, 2);
    freezepoint__manifest__free_unpacked(manifest, NULL);
    image_draft_abandon(&first);
    expect_all_whole(place);
    assert_int_equal(count_drafts(place, "x"), 0);
}

static int begin_and_wait(struct place *place)
{
    struct image_draft draft;
    struct err err;
    CHECK_OK(image_draft_begin(&place->store, "x", &draft, &err));
    CHECK(sample_fill(&draft) == 0);
    kill(getpid(), SIGKILL);
    return 1;
}

static void drafts_of_the_dead_go(void **state)
{
    struct place *place = *state;
    struct err err;
    uint64_t generation;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(end_of(start_child(begin_and_wait, place)), 128 + SIGKILL);
        assert_int_equal(count_drafts(place, "x"), 1);
    }
    assert_int_equal(sample_commit(&place->store, "x", &generation, &err), 0);
    assert_int_equal(generation, 1);
    assert_int_equal(count_drafts(place, "x"), 0);
}

static void odd_drafts_are_refused(void **state)
{
    struct place *place = *state;
    struct err err;
    uint64_t generation = 9;
    struct image_draft draft = IMAGE_DRAFT_NONE;
    assert_int_equal(image_draft_begin(&place->store, "x", &draft, &err), 0);
    assert_int_equal(sample_fill(&draft), 0);
    assert_int_equal(symlinkat("/etc", draft.dirfd, "criu/parent"), 0);
    Freezepoint__Manifest *manifest = sample_manifest("x");
    assert_int_equal(image_draft_commit(&draft, manifest, &generation, &err), -ENOTSUP);
    unlinkat(draft.dirfd, "criu/parent", 0);
    manifest->root_pid = 0;
    assert_int_equal(image_draft_commit(&draft, manifest, &generation, &err), -EBADMSG);
    manifest->root_pid = 77;
    assert_int_equal(open_and_verify(&place->store, "x", &err), -ENOENT);
    assert_int_equal(image_draft_commit(&draft, manifest, &generation, &err), 0);
    assert_int_equal(generation, 1);
    freezepoint__manifest__free_unpacked(manifest, NULL);
    /* An image from the rename on, not only when its writer lets go. */
    assert_int_equal(open_and_verify(&place->store, "x", &err), 0);
    image_draft_abandon(&draft);
}

#define WRITERS        4
#define IMAGES_BY_EACH 15

static int commit_many(struct place *place)
{
    struct err err;
    uint64_t generation, last = 0;
    for (int i = 0; i < IMAGES_BY_EACH; i++) {
        CHECK_OK(sample_commit(&place->store, "x", &generation, &err));
        CHECK(generation > last);
        last = generation;
    }
    return 0;
}

static void writers_do_not_collide(void **state)
{
    struct place *place = *state;
    pid_t pids[WRITERS];
    struct err err;
    for (int i = 0; i < WRITERS; i++)
        pids[i] = start_child(commit_many, place);
    expect_all_succeed(pids, WRITERS);
    int fd;
    uint64_t *generations;
    assert_int_equal(store_open_name(&place->store, "x", false, &fd, &err), 0);
    long count = store_generations(fd, &generations, &err);
    assert_int_equal(count, WRITERS * IMAGES_BY_EACH);
    assert_int_equal(generations[count - 1], count);
    char latest[32] = "";
    assert_true(readlinkat(fd, "latest", latest, sizeof(latest) - 1) > 0);
    assert_string_equal(latest, "60");
    free(generations);
    close(fd);
    expect_all_whole(place);
}

static int make_and_remove(struct place *place)
{
    struct err err;
    uint64_t generation;
    for (int i = 0; i < 40; i++) {
        CHECK_OK(sample_commit(&place->store, "x", &generation, &err));
        CHECK_OK(image_remove(&place->store, "x", generation, &err));
    }
    return 0;
}

static int commit_one(struct place *place)
{
    struct err err;
    uint64_t generation;
    CHECK_OK(sample_commit(&place->store, "x", &generation, &err));
    return 0;
}

/* The directory goes between the writer's opening and its locking of it. */
static void a_lock_on_a_removed_name_is_worth_nothing(void **state)
{
    struct place *place = *state;
    struct err err;
    int fd;
    assert_int_equal(store_lock_name(&place->store, "x", true, &fd, &err), 0);
    pid_t pid = start_child(commit_one, place);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    assert_int_equal(unlinkat(place->store.fd, "x", AT_REMOVEDIR), 0);
    store_unlock(fd);
    close(fd);
    assert_int_equal(end_of(pid), 0);
    assert_int_equal(open_and_verify(&place->store, "x@1", &err), 0);
}

static void makers_and_removers_do_not_collide(void **state)
{
    struct place *place = *state;
    struct stat about;
    pid_t pids[3];
    for (int i = 0; i < 3; i++)
        pids[i] = start_child(make_and_remove, place);
    expect_all_succeed(pids, 3);
    assert_int_equal(fstatat(place->store.fd, "x", &about, 0), -1);
}

static int commit_until_killed(struct place *place)
{
    struct err err;
    uint64_t generation;
    for (;;)
        CHECK_OK(sample_commit(&place->store, "x", &generation, &err));
}

static void kill_leaves_only_whole_images(void **state)
{
    struct place *place = *state;
    struct err err;
    uint64_t generation, last = 0;
    for (int i = 0; i < 40; i++) {
        pid_t pid = start_child(commit_until_killed, place);
        nanosleep(&(struct timespec){.tv_nsec = 1000000L * (i % 20) + 137000L * i}, NULL);
        kill(pid, SIGKILL);
        assert_int_equal(end_of(pid), 128 + SIGKILL);
        expect_all_whole(place);
        assert_int_equal(sample_commit(&place->store, "x", &generation, &err), 0);
        assert_true(generation > last);
        last = generation;
        assert_int_equal(count_drafts(place, "x"), 0);
    }
}

static int enter_mount_namespace(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return -1;
    return 0;
}

static int mount_small(const struct place *place, const char *options)
{
    return enter_mount_namespace() || mount("tmpfs", place->top, "tmpfs", 0, options) < 0 ? -1 : 0;
}

/* A draft on a disk with `room` bytes left. */
static int commit_on_full(struct store *store, size_t room, struct err *err)
{
    _cleanup_(image_draft_abandon) struct image_draft draft = IMAGE_DRAFT_NONE;
    int error = image_draft_begin(store, "x", &draft, err);
    if (error)
        return error;
    if (sample_fill(&draft))
        return err_set(err, errno, "fill");
    sample_write(store->path, "ballast", 'b', 64 << 20);
    char ballast[PATH_MAX];
    struct stat about;
    snprintf(ballast, sizeof(ballast), "%s/ballast", store->path);
    if (stat(ballast, &about) < 0 || truncate(ballast, about.st_size - (off_t)room) < 0)
        return err_set(err, errno, "ballast");
    Freezepoint__Manifest *manifest = sample_manifest("x");
    uint64_t generation;
    error = image_draft_commit(&draft, manifest, &generation, err);
    freezepoint__manifest__free_unpacked(manifest, NULL);
    unlink(ballast);
    return error;
}

static int fill_a_small_disk(struct place *place)
{
    struct err err;
    uint64_t generation;
    CHECK(mount_small(place, "size=4m,mode=700") == 0);
    struct store store = STORE_NONE;
    CHECK_OK(store_open(place->top, &store, &err));
    CHECK_OK(sample_commit(&store, "x", &generation, &err));
    CHECK(commit_on_full(&store, 0, &err) == -ENOSPC);
    CHECK(strstr(err.text, "the image store is full: make room") != NULL);
    CHECK(count_drafts(place, "x") == 0);
    CHECK_OK(open_and_verify(&store, "x@1", &err));
    CHECK(open_and_verify(&store, "x@2", &err) == -ENOENT);
    CHECK_OK(commit_on_full(&store, 16384, &err));
    CHECK_OK(open_and_verify(&store, "x@2", &err));
    /* No room even for CRIU's files. */
    CHECK(sample_commit(&store, "x", &generation, &err) == 0);
    CHECK(sample_commit(&store, "x", &generation, &err) == -ENOSPC);
    CHECK_OK(open_and_verify(&store, "x@3", &err));
    CHECK(count_drafts(place, "x") == 0);
    store_close(&store);
    return 0;
}

static void full_disk_keeps_older_images(void **state)
{
    succeed_as_root(fill_a_small_disk, *state);
}

/* Every number of free inodes: the failure comes at each step in turn. */
static int run_out_of_inodes(struct place *place)
{
    struct err err;
    int failures = 0;
    CHECK(enter_mount_namespace() == 0);
    for (int inodes = 12; inodes < 32; inodes++) {
        char options[64];
        snprintf(options, sizeof(options), "nr_inodes=%d,mode=700", inodes);
        CHECK(mount("tmpfs", place->top, "tmpfs", 0, options) == 0);
        struct store store = STORE_NONE;
        CHECK_OK(store_open(place->top, &store, &err));
        uint64_t first = 0, second = 0;
        int error = sample_commit(&store, "x", &first, &err);
        CHECK(error == 0 || error == -ENOSPC);
        int later = sample_commit(&store, "x", &second, &err);
        CHECK(later == 0 || later == -ENOSPC);
        failures += later != 0;
        if (!error)
            CHECK_OK(open_and_verify(&store, "x@1", &err));
        if (!later)
            CHECK_OK(open_and_verify(&store, "x", &err));
        CHECK(count_drafts(place, "x") == 0);
        store_close(&store);
        CHECK(umount(place->top) == 0);
    }
    CHECK(failures > 5 && failures < 20);
    return 0;
}

static void lack_of_inodes_keeps_older_images(void **state)
{
    succeed_as_root(run_out_of_inodes, *state);
}

static int write_to_read_only(struct place *place)
{
    struct err err;
    uint64_t generation;
    CHECK(mount_small(place, "size=4m,mode=700") == 0);
    struct store store = STORE_NONE;
    CHECK_OK(store_open(place->top, &store, &err));
    CHECK_OK(sample_commit(&store, "x", &generation, &err));
    CHECK(mount(NULL, place->top, NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0);
    CHECK(sample_commit(&store, "x", &generation, &err) == -EROFS);
    CHECK(strstr(err.text, "use --images DIR elsewhere") != NULL);
    CHECK(sample_commit(&store, "new", &generation, &err) == -EROFS);
    CHECK(image_remove(&store, "x", 1, &err) == -EROFS);
    CHECK_OK(open_and_verify(&store, "x", &err));
    struct store below = STORE_NONE;
    char path[128];
    snprintf(path, sizeof(path), "%s/below", place->top);
    CHECK(store_open(path, &below, &err) == -EROFS);
    CHECK(strstr(err.text, "use --images DIR elsewhere") != NULL);
    store_close(&store);
    return 0;
}

static void read_only_store_is_told(void **state)
{
    succeed_as_root(write_to_read_only, *state);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(abandoned_draft_leaves_nothing),
        TEST(live_drafts_stay),
        TEST(drafts_of_the_dead_go),
        TEST(odd_drafts_are_refused),
        TEST(writers_do_not_collide),
        TEST(a_lock_on_a_removed_name_is_worth_nothing),
        TEST(makers_and_removers_do_not_collide),
        TEST(kill_leaves_only_whole_images),
        TEST(full_disk_keeps_older_images),
        TEST(lack_of_inodes_keeps_older_images),
        TEST(read_only_store_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
