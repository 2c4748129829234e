#include "lib/moving.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/dir.h"
#include "lib/fd.h"
#include "lib/job.h"
#include "lib/log.h"
#include "lib/stream.h"
#include "lib/via.h"

#define ARRIVALS         JOB_RUNTIME_ROOT "/.arrivals"
#define KEPT_SECONDS     (24 * 60 * 60)
#define RAN_KEPT_SECONDS (60 * KEPT_SECONDS)
#define DIGITS           (MOVING_ID_SIZE - 1)

int moving_make_id(char id[MOVING_ID_SIZE], struct err *err)
{
    uint64_t number[2];
    if (getrandom(number, sizeof(number), 0) != (ssize_t)sizeof(number))
        return err_set(err, errno, "getrandom");
    snprintf(id, MOVING_ID_SIZE, "%016" PRIx64 "%016" PRIx64, number[0], number[1]);
    return 0;
}

bool moving_id_is_valid(const char *id)
{
    return strlen(id) == DIGITS && strspn(id, "0123456789abcdef") == DIGITS;
}

/* ---- small files, whole or not at all ---- */

static int write_file(const char *path, const char *text, struct err *err)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof(temporary), "%s.%d", path, getpid()) >= (int)sizeof(temporary))
        return err_set(err, ENAMETOOLONG, "'%s'", path);
    unlink(temporary);
    _cleanup_close_ int fd =
        open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, errno, "make '%s'", temporary);
    ssize_t n = fd_write_all(fd, text, strlen(text));
    if (n < 0 || rename(temporary, path) < 0) {
        int errnum = n < 0 ? (int)-n : errno;
        unlink(temporary);
        return err_set(err, errnum, "write '%s'", path);
    }
    return 0;
}

/* Returns the length or -errno. */
static ssize_t read_file(const char *path, char *text, size_t size)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = fd_read_all(fd, text, size - 1);
    if (n >= 0)
        text[n] = '\0';
    return n;
}

/* ---- the target ---- */

static const char ran[] = "ran\n", never[] = "never\n";

/* Those that ran are kept for much longer: the source may be cut off for days, and what is
 * not there is decided to run never.  With a '.' in front: of somebody who was killed while
 * writing one. */
static bool is_forgettable(int dirfd, const char *name, time_t now)
{
    struct stat about;
    if (fstatat(dirfd, name, &about, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(about.st_mode))
        return false;
    bool may_be_asked = name[0] != '.' && about.st_size != (off_t)strlen(never);
    return now - about.st_mtime > (may_be_asked ? RAN_KEPT_SECONDS : KEPT_SECONDS);
}

static void forget_old(void)
{
    _cleanup_closedir_ DIR *dir = opendir(ARRIVALS);
    time_t now = time(NULL);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (is_forgettable(dirfd(dir), entry->d_name, now))
            unlinkat(dirfd(dir), entry->d_name, 0);
}

static int decided(const char *path, struct err *err)
{
    char text[16];
    ssize_t n = read_file(path, text, sizeof(text));
    if (n < 0)
        return err_set(err, (int)-n, "read '%s'", path);
    if (!strcmp(text, ran))
        return OUTCOME_RAN;
    if (!strcmp(text, never))
        return OUTCOME_NEVER;
    return err_text(err, EBADMSG, "'%s' says something else", path);
}

/* link(2) fails where the name is there: one alone decides, and nobody reads half. */
int arrival_decide(const char *id, enum outcome wanted, struct err *err)
{
    if (!moving_id_is_valid(id))
        return err_text(err, EBADMSG, "the other side names an odd migration");
    char path[PATH_MAX], temporary[PATH_MAX];
    int error = dir_make(ARRIVALS, 0700, err);
    if (error)
        return error;
    forget_old();
    snprintf(path, sizeof(path), ARRIVALS "/%s", id);
    snprintf(temporary, sizeof(temporary), ARRIVALS "/.%s.%d", id, getpid());
    error = write_file(temporary, wanted == OUTCOME_RAN ? ran : never, err);
    if (error)
        return error;
    if (link(temporary, path) < 0 && errno != EEXIST)
        error = err_set(err, errno, "make '%s'", path);
    unlink(temporary);
    return error ? error : decided(path, err);
}

bool arrival_is_decided(const char *id)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), ARRIVALS "/%s", id);
    return moving_id_is_valid(id) && access(path, F_OK) == 0;
}

/* ---- the job's files ---- */

static void path_in(char path[PATH_MAX], const char *runtime_path, const char *name)
{
    snprintf(path, PATH_MAX, "%.*s/%s", PATH_MAX - 32, runtime_path, name);
}

/* Three lines: number, addresses, command (which may be several). */
static int write_record(const char *runtime_path, const char *name, const struct moving *moving,
                        struct err *err)
{
    char path[PATH_MAX], text[sizeof(struct moving) + 4];
    path_in(path, runtime_path, name);
    snprintf(text, sizeof(text), "%s\n%s\n%s", moving->id, moving->addresses, moving->via);
    return write_file(path, text, err);
}

int moving_parse(const char *text, struct moving *out, struct err *err)
{
    const char *addresses = strchr(text, '\n');
    const char *via = addresses ? strchr(addresses + 1, '\n') : NULL;
    if (!via)
        return err_text(err, EBADMSG, "the record of a migration is cut short");
    size_t id_size = (size_t)(addresses++ - text), addresses_size = (size_t)(via++ - addresses);
    struct moving moving = {.id = ""};
    if (id_size >= sizeof(moving.id) || addresses_size >= sizeof(moving.addresses) ||
        strlen(via) >= sizeof(moving.via))
        return err_text(err, EBADMSG, "the record of a migration is too long");
    memcpy(moving.id, text, id_size);
    memcpy(moving.addresses, addresses, addresses_size);
    memcpy(moving.via, via, strlen(via));
    if (!moving_id_is_valid(moving.id))
        return err_text(err, EBADMSG, "the record of a migration has an odd number");
    *out = moving;
    return 0;
}

/* -ENOENT where the job has none. */
static int read_record(const char *runtime_path, const char *name, struct moving *out,
                       struct err *err)
{
    char path[PATH_MAX], text[sizeof(struct moving) + 4];
    path_in(path, runtime_path, name);
    ssize_t n = read_file(path, text, sizeof(text));
    if (n < 0)
        return err_set(err, (int)-n, "read '%s'", path);
    return moving_parse(text, out, err) ? err_wrap(err, "'%s'", path) : 0;
}

static void remove_record(const char *runtime_path, const char *name)
{
    char path[PATH_MAX];
    path_in(path, runtime_path, name);
    unlink(path);
}

static const char arriving[] = "arriving", leaving[] = "moving";

int arrival_begin(const char *runtime_path, const struct moving *moving, struct err *err)
{
    return write_record(runtime_path, arriving, moving, err);
}

void arrival_end(const char *runtime_path)
{
    remove_record(runtime_path, arriving);
}

int moving_begin(const char *runtime_path, const struct moving *moving, struct err *err)
{
    return write_record(runtime_path, leaving, moving, err);
}

void moving_end(const char *runtime_path)
{
    remove_record(runtime_path, leaving);
}

/* ---- addresses ---- */

int moving_add_address(struct moving *moving, const char *text, struct err *err)
{
    size_t length = strlen(moving->addresses);
    int added = snprintf(moving->addresses + length, sizeof(moving->addresses) - length, "%s%s",
                         length ? " " : "", text);
    if (added >= (int)(sizeof(moving->addresses) - length)) {
        moving->addresses[length] = '\0';
        return err_usage(err, "there are too many --move-address");
    }
    return 0;
}

int moving_addresses(const struct moving *moving,
                     int (*act)(const struct moved_address *, struct err *), struct err *err)
{
    char text[sizeof(moving->addresses)], *rest = NULL;
    int first = 0;
    memcpy(text, moving->addresses, sizeof(text));
    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        struct moved_address address;
        struct err why;
        int error = address_parse(word, &address, &why);
        if (!error)
            error = act(&address, &why);
        if (error < 0 && !first) {
            first = error;
            *err = why;
        }
    }
    return first;
}

/* ---- asking ---- */

static int enquire(struct stream *stream, const char *id, struct err *err)
{
    StreamMessage message, *answer = NULL;
    Freezepoint__Stream__Hello hello;
    freezepoint__stream__message__init(&message);
    freezepoint__stream__hello__init(&hello);
    hello.version = STREAM_VERSION;
    hello.id = (char *)id;
    hello.enquire = true;
    message.kind = FREEZEPOINT__STREAM__KIND__HELLO;
    message.hello = &hello;
    int error = stream_send(stream, &message, NULL, 0, err);
    if (!error)
        error = stream_expect(stream, FREEZEPOINT__STREAM__KIND__OUTCOME, &answer, err);
    if (error)
        return error;
    Freezepoint__Stream__Outcome outcome = answer->outcome;
    freezepoint__stream__message__free_unpacked(answer, NULL);
    switch (outcome) {
    case FREEZEPOINT__STREAM__OUTCOME__OUTCOME_RAN:
        return OUTCOME_RAN;
    case FREEZEPOINT__STREAM__OUTCOME__OUTCOME_NEVER:
        return OUTCOME_NEVER;
    default:
        return err_text(err, EPROTO, "the other side does not tell how the migration ended");
    }
}

int moving_ask(const struct moving *moving, struct err *err)
{
    _cleanup_(via_close) struct via via = VIA_NONE;
    _cleanup_(stream_release) struct stream stream = STREAM_NONE;
    int error = via_open(moving->via, &via, err);
    if (!error)
        error = stream_open(&stream, via.in, via.out, err);
    return error ? error : enquire(&stream, moving->id, err);
}

/* ---- orphans ---- */

static void put_right(const struct moving *moving,
                      int (*act)(const struct moved_address *, struct err *))
{
    struct err err;
    if (moving_addresses(moving, act, &err))
        log_warning("migrate", "%s", err.text);
}

static int settle_arrival(const char *runtime_path, const struct moving *moving, struct err *err)
{
    int outcome = arrival_decide(moving->id, OUTCOME_NEVER, err);
    if (outcome < 0)
        return outcome;
    put_right(moving, outcome == OUTCOME_RAN ? address_keep : address_remove);
    if (outcome == OUTCOME_RAN)
        put_right(moving, address_announce);
    arrival_end(runtime_path);
    return outcome;
}

static int settle_departure(const char *runtime_path, const struct moving *moving, struct err *err)
{
    int outcome = moving_ask(moving, err);
    if (outcome < 0)
        return outcome;
    if (outcome == OUTCOME_RAN)
        put_right(moving, address_remove);
    moving_end(runtime_path);
    return outcome == OUTCOME_RAN ? OUTCOME_NEVER : OUTCOME_RAN;
}

int moving_settle_orphan(const char *runtime_path, struct err *err)
{
    struct moving moving;
    int error = read_record(runtime_path, arriving, &moving, err);
    if (!error)
        return settle_arrival(runtime_path, &moving, err);
    if (error == -ENOENT)
        error = read_record(runtime_path, leaving, &moving, err);
    if (!error)
        return settle_departure(runtime_path, &moving, err);
    return error == -ENOENT ? OUTCOME_RAN : error;
}
