#include "cli/report.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/html.h"

/* cli/page.S */
extern const char page_html[], page_css[], page_js[];
extern const size_t page_html_size, page_css_size, page_js_size;

/* Where the file really is, which is what a symbolic link leads to. */
static int find_place(const char *path, char *place, struct err *err)
{
    struct stat status;
    if (stat(path, &status) < 0) {
        if (errno != ENOENT)
            return err_set(err, errno, "--report '%s'", path);
        if (snprintf(place, PATH_MAX, "%s", path) >= PATH_MAX)
            return err_set(err, ENAMETOOLONG, "--report '%s'", path);
        return 0;
    }
    if (!S_ISREG(status.st_mode))
        return err_usage(err, "--report '%s': that is no regular file", path);
    if (!realpath(path, place))
        return err_set(err, errno, "--report '%s'", path);
    return access(place, W_OK) < 0 ? err_set(err, errno, "--report '%s'", path) : 0;
}

struct draft {
    char place[PATH_MAX], path[PATH_MAX + 16];
    int fd;
};

/* In the same directory, so that it can be renamed. */
static int make_draft(const char *path, struct draft *draft, struct err *err)
{
    int error = find_place(path, draft->place, err);
    if (error)
        return error;
    const char *slash = strrchr(draft->place, '/');
    int length = slash ? (int)(slash + 1 - draft->place) : 0;
    snprintf(draft->path, sizeof(draft->path), "%.*s.freezepoint-XXXXXX", length, draft->place);
    draft->fd = mkostemp(draft->path, O_CLOEXEC);
    return draft->fd < 0 ? err_set(err, errno, "--report '%s': write there", path) : 0;
}

static void drop_draft(struct draft *draft)
{
    if (draft->fd >= 0)
        unlink(draft->path);
    fd_close(&draft->fd);
}

int report_check(const char *path, struct err *err)
{
    _cleanup_(drop_draft) struct draft draft = {.fd = -1};
    return make_draft(path, &draft, err);
}

static int write_page(FILE *to, struct json_object *data)
{
    _cleanup_free_ char *json =
        html_json(json_object_to_json_string_ext(data, JSON_C_TO_STRING_PLAIN));
    if (!json)
        return -ENOMEM;
    const struct html_slot slots[] = {
        {"@css@", page_css, page_css_size},
        {"@js@", page_js, page_js_size},
        {"@data@", json, strlen(json)},
    };
    int error = html_fill(to, page_html, page_html_size, slots, sizeof(slots) / sizeof(slots[0]));
    return error ? error : (fflush(to) ? -errno : 0);
}

/* As any new file would have. */
static int set_mode(int fd)
{
    mode_t mask = umask(0);
    umask(mask);
    return fchmod(fd, 0666 & ~mask);
}

int report_write(const char *path, struct json_object *data, struct err *err)
{
    _cleanup_(drop_draft) struct draft draft = {.fd = -1};
    int error = make_draft(path, &draft, err);
    if (error)
        return error;
    int copy = fcntl(draft.fd, F_DUPFD_CLOEXEC, 0);
    _cleanup_fclose_ FILE *to = copy < 0 ? NULL : fdopen(copy, "w");
    if (!to) {
        error = -errno;
        fd_close(&copy);
    } else {
        error = write_page(to, data);
    }
    if (!error &&
        (set_mode(draft.fd) < 0 || fsync(draft.fd) < 0 || rename(draft.path, draft.place) < 0))
        error = -errno;
    if (error)
        return err_set(err, -error, "write the report '%s'", path);
    fd_close(&draft.fd);
    return 0;
}
