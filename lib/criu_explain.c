/* What CRIU's messages mean and what to do about them. */
#include "lib/criu.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/fd.h"

static const struct {
    const char *needle, *remedy;
} remedies[] = {
    {"File exists", "a process id that the image needs is taken"},
    {"has bad size", "a file that the program has open changed its size since the checkpoint: put "
                     "it back, or have the program open it with O_APPEND"},
    {"has bad build-ID", "a program or library file was replaced since the checkpoint: put the old "
                         "one back, or checkpoint anew"},
    {"has bad mode", "a file that the program has open changed its mode since the checkpoint"},
    {"In-flight connection", "a connection was waiting to be accepted: try again"},
    {"Connected TCP socket", "the program has open TCP connections: use --tcp established to keep "
                             "them, or --tcp close to drop them"},
    {"Can't get rlimit", "a process of another user needs CAP_SYS_RESOURCE: run the program as "
                         "root, or freezepoint with that capability"},
    {"External socket is used", "the program is connected to a unix socket of another program"},
    {"unreachable sharing", "the program runs in a mount namespace of its own: start it with "
                            "'nsenter --net' rather than 'ip netns exec'"},
    {"No space left", "the image store is full: make room, or use --images DIR elsewhere"},
    {"can't open file", "a file that the program has open is gone"},
    {"Can't open file", "a file that the program has open is gone"},
    {"Can't lookup mount",
     "the program has a file on a mount that is not visible from here, as in a "
     "mount namespace of its own, or a POSIX message queue"},
    {"Can't dump unlinked", "the program has a large deleted file open"},
    {"Can't dump ghost file", "the program has a large deleted file open"},
    {"Address already in use", "the program's port is taken by another program: end that first"},
    {"Can't bind inet socket", "the program's port is taken by another program: end that first"},
    {"Can't link",
     "a deleted file that the program has open has another name: such an image can be "
     "restored only once"},
    {"io_uring", "the program uses io_uring, which CRIU cannot dump"},
    /* The kernel does not let such descriptors through a socket. */
    {"send_fds failed (-22)", "the program uses io_uring, which CRIU cannot dump"},
    {"Can't dump a task with a tracer", "a debugger is attached to the program"},
    {"Unseizable non-zombie", "a debugger is attached to the program"},
    {"is not a session leader", "the program's first process has ended and left it in the "
                                "background: run it in the foreground"},
    {"doesn't live in IPC ns", "the program uses System V shared memory: start it with 'unshare "
                               "--ipc'"},
    {"Can't dump nested pid namespace", "the program has a pid namespace of its own"},
    {"Can't dump nested time namespace", "the program has a time namespace of its own"},
    {"Net namespace is required", "the program has a network device open"},
    {"Unknown socket collected", "the program has a socket of a kind that CRIU cannot dump"},
    {" of that type [", "the program has a file open of a kind that CRIU cannot dump: a device, or "
                        "an object of the kernel such as of perf, bpf or userfaultfd"},
    {"/secretmem", "the program has secret memory, which CRIU cannot dump"},
    {"Unable to reserve memory", "the program has nearly its whole address space mapped, as with "
                                 "ThreadSanitizer, and CRIU needs as much again"},
};

static const char *find_remedy(const char *text)
{
    for (size_t i = 0; i < sizeof(remedies) / sizeof(remedies[0]); i++)
        if (strstr(text, remedies[i].needle))
            return remedies[i].remedy;
    return NULL;
}

struct findings {
    char first[300], last[300];
    const char *remedy;
};

static void consider_line(char *line, struct findings *found)
{
    char *error = strstr(line, "Error (");
    /* The one is in every log on machines without CAP_SYS_RESOURCE, also on
     * success; the other only says that a child said what was wrong. */
    if (!error || strstr(line, "Can't setup RLIMIT_NOFILE") || strstr(line, "): exited, status="))
        return;
    /* After another error, CRIU itself has killed what it had made. */
    if (found->first[0] && strstr(line, " killed by signal 9"))
        return;
    error[strcspn(error, "\n")] = '\0';
    char *text = strstr(error, "): ");
    text = text ? text + 3 : error;
    if (!found->first[0])
        snprintf(found->first, sizeof(found->first), "%s", text);
    snprintf(found->last, sizeof(found->last), "%s", text);
    if (!found->remedy)
        found->remedy = find_remedy(text);
}

static bool read_log(const char *path, struct findings *found)
{
    _cleanup_fclose_ FILE *log = fopen(path, "re");
    if (!log)
        return false;
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, log) > 0)
        consider_line(line, found);
    return true;
}

int criu_explain(const char *what, const CriuResp *response, const char *log_path, struct err *err)
{
    struct findings found = {0};
    bool has_log = read_log(log_path, &found);
    int errnum = response && response->cr_errno > 0 ? response->cr_errno : EIO;
    if (!found.first[0] && response && response->cr_errmsg) {
        snprintf(found.first, sizeof(found.first), "%.*s", (int)strcspn(response->cr_errmsg, "\n"),
                 response->cr_errmsg);
        found.remedy = find_remedy(response->cr_errmsg);
    }
    if (!response)
        err_text(err, EPIPE, "%s: CRIU died%s%s", what, found.first[0] ? ": " : "", found.first);
    else if (!found.first[0])
        err_text(err, errnum, "%s: CRIU failed: %s", what, strerror(errnum));
    else if (!strcmp(found.first, found.last) || !found.last[0])
        err_text(err, errnum, "%s: CRIU: %s", what, found.first);
    else
        err_text(err, errnum, "%s: CRIU: %s ... %s", what, found.first, found.last);
    if (has_log)
        err_hint(err, "log: %s", log_path);
    if (found.remedy)
        err_hint(err, "%s", found.remedy);
    return -err->errnum;
}
