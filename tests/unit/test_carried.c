/* Putting back files that an image carries: what users other than root can do to the
 * directories on the way must not lead it elsewhere. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/dir.h"
#include "restore/carried.h"
#include "tests/unit/image_sample.h"

#define TEXT_SIZE 9

static char root[] = "/tmp/freezepoint-carried-XXXXXX";
static struct image image;
static Freezepoint__Manifest manifest;
static Freezepoint__CarriedFile carried;
static Freezepoint__CarriedFile *list[] = {&carried};

static const char *below(const char *name)
{
    static char path[2][PATH_MAX];
    static int turn;
    turn ^= 1;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", root, name);
    return path[turn];
}

static int set_up(void **state)
{
    (void)state;
    memcpy(root + strlen(root) - 6, "XXXXXX", 6);
    if (!mkdtemp(root) || mkdir(below("image"), 0700) < 0 || mkdir(below("home"), 0755) < 0 ||
        mkdir(below("elsewhere"), 0711) < 0 ||
        sample_write(below("image"), "0", 'x', TEXT_SIZE) != 0)
        return -1;
    freezepoint__manifest__init(&manifest);
    freezepoint__carried_file__init(&carried);
    carried.file = (ProtobufCBinaryData){.len = 1, .data = (uint8_t *)"0"};
    carried.mode = 0640;
    carried.directory_mode = 0750;
    carried.uid = carried.directory_uid = geteuid();
    carried.gid = carried.directory_gid = getegid();
    manifest.n_carried = 1;
    manifest.carried = list;
    image = IMAGE_NONE;
    image.manifest = &manifest;
    image.dirfd = open(below("image"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return image.dirfd < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    struct err err;
    close(image.dirfd);
    return dir_remove_recursive(AT_FDCWD, root, &err);
}

static int place(const char *name, struct err *err)
{
    static char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/%s", root, name);
    carried.path = (ProtobufCBinaryData){.len = strlen(path), .data = (uint8_t *)path};
    return carried_place(&image, err);
}

static mode_t mode_of(const char *name)
{
    struct stat about;
    return stat(below(name), &about) < 0 ? 0 : about.st_mode & 07777;
}

static void puts_back_a_file_and_its_directory(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(place("home/data/file", &err), 0);
    struct stat about;
    assert_int_equal(stat(below("home/data/file"), &about), 0);
    assert_int_equal(about.st_size, TEXT_SIZE);
    assert_int_equal(about.st_nlink, 1);
    assert_int_equal(mode_of("home/data/file"), 0640);
    assert_int_equal(mode_of("home/data"), 0750);
    assert_int_equal(place("home/data/file", &err), 0);
}

static void leaves_what_exists(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(sample_write(below("home"), "file", 'y', 3), 0);
    assert_int_equal(place("home/file", &err), 0);
    struct stat about;
    assert_int_equal(stat(below("home/file"), &about), 0);
    assert_int_equal(about.st_size, 3);
    assert_int_equal(mode_of("home"), 0755);
}

static void assert_refused(const char *name)
{
    struct err err;
    assert_true(place(name, &err) < 0);
    assert_int_equal(mode_of("elsewhere"), 0711);
    assert_int_equal(rmdir(below("elsewhere")), 0); /* it is empty */
}

static void does_not_follow_a_link_in_the_directorys_place(void **state)
{
    (void)state;
    assert_int_equal(symlink("../elsewhere", below("home/data")), 0);
    assert_refused("home/data/file");
}

static void does_not_follow_a_link_on_the_way(void **state)
{
    (void)state;
    assert_int_equal(symlink("elsewhere", below("way")), 0);
    assert_refused("way/data/file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(puts_back_a_file_and_its_directory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leaves_what_exists, set_up, tear_down),
        cmocka_unit_test_setup_teardown(does_not_follow_a_link_in_the_directorys_place, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(does_not_follow_a_link_on_the_way, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
