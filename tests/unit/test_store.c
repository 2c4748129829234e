/* The store itself: whom it trusts, numbers, `latest`, the listing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "lib/dir.h"
#include "tests/unit/image_sample.h"

struct place {
    char top[64];   /* ours, removed afterwards */
    char path[128]; /* where the store shall be */
    struct store store;
};

static int setup(void **state)
{
    struct place *place = calloc(1, sizeof(*place));
    place->store = STORE_NONE;
    snprintf(place->top, sizeof(place->top), "/tmp/freezepoint-store-XXXXXX");
    if (!mkdtemp(place->top))
        return -1;
    snprintf(place->path, sizeof(place->path), "%s/a/store", place->top);
    *state = place;
    return 0;
}

static int teardown(void **state)
{
    struct place *place = *state;
    struct err err;
    store_close(&place->store);
    int error = dir_remove_recursive(AT_FDCWD, place->top, &err);
    free(place);
    return error;
}

static void open_store(struct place *place)
{
    struct err err;
    if (store_open(place->path, &place->store, &err))
        fail_msg("%s", err.text);
}

static uint64_t commit(struct place *place, const char *name)
{
    struct err err;
    uint64_t generation = 0;
    if (sample_commit(&place->store, name, &generation, &err))
        fail_msg("%s", err.text);
    return generation;
}

static void expect_untrusted(const char *path, const char *text)
{
    struct store store = STORE_NONE;
    struct err err = {0};
    assert_int_equal(store_open(path, &store, &err), -EPERM);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
    assert_int_equal(store_find(path, &store, &err), -EPERM);
    assert_int_equal(store.fd, -1);
}

static void missing_is_made_only_to_write(void **state)
{
    struct place *place = *state;
    struct err err;
    struct stat about;
    assert_int_equal(store_find(place->path, &place->store, &err), -ENOENT);
    assert_int_equal(stat(place->path, &about), -1);
    mode_t mask = umask(0);
    open_store(place);
    umask(mask);
    assert_int_equal(stat(place->path, &about), 0);
    assert_int_equal(about.st_mode & 07777, 0700);
    assert_string_equal(place->store.path, place->path);
}

static void default_comes_from_the_environment(void **state)
{
    struct place *place = *state;
    unsetenv("FREEZEPOINT_IMAGES");
    assert_string_equal(store_default_path(), "/var/lib/freezepoint");
    setenv("FREEZEPOINT_IMAGES", place->path, 1);
    struct err err;
    assert_int_equal(store_open(NULL, &place->store, &err), 0);
    assert_string_equal(place->store.path, place->path);
    unsetenv("FREEZEPOINT_IMAGES");
}

static void relative_path_becomes_absolute(void **state)
{
    struct place *place = *state;
    struct err err;
    char here[PATH_MAX];
    assert_non_null(getcwd(here, sizeof(here)));
    assert_int_equal(chdir(place->top), 0);
    int error = store_open("a/../a/./store/", &place->store, &err);
    assert_int_equal(chdir(here), 0);
    /* "a" is made before ".." is taken. */
    assert_int_equal(error, 0);
    assert_string_equal(place->store.path, place->path);
}

static void others_must_not_write(void **state)
{
    struct place *place = *state;
    char parent[128];
    open_store(place);
    snprintf(parent, sizeof(parent), "%s/a", place->top);
    chmod(place->path, 0770);
    expect_untrusted(place->path, "can be written by other users (mode 0770)");
    chmod(place->path, 01777);
    expect_untrusted(place->path, "can be written");
    chmod(place->path, 0755);
    chmod(parent, 0777);
    expect_untrusted(place->path, "/a' can be written");
    chmod(parent, 01777);
    struct store store = STORE_NONE;
    struct err err;
    assert_int_equal(store_open(place->path, &store, &err), 0);
    store_close(&store);
}

static void others_must_not_own(void **state)
{
    struct place *place = *state;
    char parent[128];
    if (geteuid() != 0)
        skip();
    open_store(place);
    snprintf(parent, sizeof(parent), "%s/a", place->top);
    assert_int_equal(chown(place->path, 1000, 0), 0);
    expect_untrusted(place->path, "belongs to user 1000");
    assert_int_equal(chown(place->path, 0, 0), 0);
    assert_int_equal(chown(parent, 1000, 0), 0);
    expect_untrusted(place->path, "belongs to user 1000");
    /* Sticky does not help against the owner. */
    chmod(parent, 01777);
    expect_untrusted(place->path, "belongs to user 1000");
}

static void links_of_others_are_refused(void **state)
{
    struct place *place = *state;
    char link[128], loop[128];
    open_store(place);
    snprintf(link, sizeof(link), "%s/link", place->top);
    snprintf(loop, sizeof(loop), "%s/loop", place->top);
    assert_int_equal(symlink("a/store", link), 0);
    struct store store = STORE_NONE;
    struct err err;
    assert_int_equal(store_find(link, &store, &err), 0);
    assert_string_equal(store.path, place->path);
    store_close(&store);
    assert_int_equal(symlink("loop", loop), 0);
    assert_int_equal(store_find(loop, &store, &err), -ELOOP);
    if (geteuid() != 0)
        return;
    assert_int_equal(lchown(link, 1000, 1000), 0);
    expect_untrusted(link, "symbolic link");
}

static void names_are_checked(void **state)
{
    static const char *const odd[] = {"", ".", "..", "a/b", ".hidden", "a@1", "-x", "a b"};
    struct place *place = *state;
    struct err err;
    int fd;
    open_store(place);
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
        assert_int_equal(store_open_name(&place->store, odd[i], true, &fd, &err), -EINVAL);
    assert_int_equal(store_open_name(&place->store, "x", false, &fd, &err), -ENOENT);
    assert_int_equal(symlinkat("/etc", place->store.fd, "etc"), 0);
    assert_true(store_open_name(&place->store, "etc", false, &fd, &err) < 0);
    assert_true(store_open_name(&place->store, "etc", true, &fd, &err) < 0);
}

static void generations_are_plain_numbers(void **state)
{
    (void)state;
    static const char *const odd[] = {
        "", "0", "01", "-1", "+1", " 1", "1 ", "1a", "0x1", "1.0", "1000000000000000000", "latest"};
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
        assert_int_equal(store_parse_generation(odd[i]), 0);
    assert_int_equal(store_parse_generation("1"), 1);
    assert_true(store_parse_generation("999999999999999999") == 999999999999999999ULL);
}

static void expect_latest(struct place *place, const char *name, const char *generation)
{
    char path[64], target[32] = "";
    snprintf(path, sizeof(path), "%s/latest", name);
    ssize_t n = readlinkat(place->store.fd, path, target, sizeof(target) - 1);
    assert_int_equal(n, (ssize_t)strlen(generation));
    assert_string_equal(target, generation);
}

static void numbers_never_come_again(void **state)
{
    struct place *place = *state;
    struct err err;
    open_store(place);
    for (uint64_t expected = 1; expected <= 4; expected++)
        assert_int_equal(commit(place, "x"), expected);
    expect_latest(place, "x", "4");
    assert_int_equal(image_remove(&place->store, "x", 2, &err), 0);
    expect_latest(place, "x", "4");
    assert_int_equal(image_remove(&place->store, "x", 4, &err), 0);
    expect_latest(place, "x", "3");
    assert_int_equal(image_remove(&place->store, "x", 3, &err), 0);
    expect_latest(place, "x", "1");
    assert_int_equal(commit(place, "x"), 5);
    expect_latest(place, "x", "5");
    assert_int_equal(image_remove(&place->store, "x", 7, &err), -ENOENT);
    assert_int_equal(image_remove(&place->store, "y", 1, &err), -ENOENT);
}

static void last_removal_takes_the_name_along(void **state)
{
    struct place *place = *state;
    struct err err;
    struct stat about;
    open_store(place);
    commit(place, "x");
    commit(place, "x");
    assert_int_equal(image_remove(&place->store, "x", 2, &err), 0);
    assert_int_equal(image_remove(&place->store, "x", 1, &err), 0);
    assert_int_equal(fstatat(place->store.fd, "x", &about, 0), -1);
    assert_int_equal(commit(place, "x"), 1);
}

static void full_numbers_are_an_error(void **state)
{
    struct place *place = *state;
    struct err err;
    uint64_t generation;
    open_store(place);
    commit(place, "x");
    assert_int_equal(mkdirat(place->store.fd, "x/999999999999999999", 0700), 0);
    assert_int_equal(sample_commit(&place->store, "x", &generation, &err), -EOVERFLOW);
}

struct listing {
    char text[2048];
    int stop_after;
};

static int write_down(const struct store_entry *entry, void *context)
{
    struct listing *listing = context;
    size_t used = strlen(listing->text);
    assert_true((entry->image == NULL) == (entry->problem != NULL));
    if (entry->image)
        assert_int_equal(entry->image->generation, entry->generation);
    snprintf(listing->text + used, sizeof(listing->text) - used, "%s@%" PRIu64 "%s%s ", entry->name,
             entry->generation, entry->newest ? "*" : "", entry->problem ? "!" : "");
    return --listing->stop_after == 0 ? 42 : 0;
}

static void listing_shows_the_damaged_too(void **state)
{
    struct place *place = *state;
    struct err err;
    open_store(place);
    struct listing listing = {.text = ""};
    assert_int_equal(store_list(&place->store, write_down, &listing, &err), 0);
    assert_string_equal(listing.text, "");
    for (int i = 0; i < 10; i++)
        commit(place, "b");
    commit(place, "a");
    commit(place, "C");
    assert_int_equal(unlinkat(place->store.fd, "b/9/" IMAGE_MANIFEST, 0), 0);
    assert_int_equal(fchmodat(place->store.fd, "a/1/criu", 0777, 0), 0);
    assert_int_equal(mkdirat(place->store.fd, "empty", 0700), 0);
    assert_int_equal(mkdirat(place->store.fd, ".hidden", 0700), 0);
    assert_int_equal(symlinkat("/etc", place->store.fd, "etc"), 0);
    assert_int_equal(sample_write(place->path, "file", 'x', 1), 0);
    assert_int_equal(store_list(&place->store, write_down, &listing, &err), 0);
    assert_string_equal(listing.text, "C@1* a@1*! b@1 b@2 b@3 b@4 b@5 b@6 b@7 b@8 b@9! b@10* "
                                      "etc@0! ");
    listing = (struct listing){.stop_after = 3};
    assert_int_equal(store_list(&place->store, write_down, &listing, &err), 42);
    assert_string_equal(listing.text, "C@1* a@1*! b@1 ");
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(missing_is_made_only_to_write),
        TEST(default_comes_from_the_environment),
        TEST(relative_path_becomes_absolute),
        TEST(others_must_not_write),
        TEST(others_must_not_own),
        TEST(links_of_others_are_refused),
        TEST(names_are_checked),
        TEST(generations_are_plain_numbers),
        TEST(numbers_never_come_again),
        TEST(last_removal_takes_the_name_along),
        TEST(full_numbers_are_an_error),
        TEST(listing_shows_the_damaged_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
