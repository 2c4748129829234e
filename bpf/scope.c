#include "bpf/scope.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "lib/fd.h"
#include "lib/proc.h"

/* include/linux/proc_ns.h, PROC_PID_INIT_INO. */
#define HOST_PID_NAMESPACE 0xEFFFFFFCU

int scope_of_group(int group_fd, struct scope *out, struct err *err)
{
    struct stat about;
    if (fstat(group_fd, &about) < 0)
        return err_set(err, errno, "stat the group");
    *out = (struct scope){.kind = SCOPE_GROUP, .group_id = about.st_ino};
    return 0;
}

static int read_namespace(pid_t pid, const char *name, __u32 *inode)
{
    char path[64];
    struct stat about;
    snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
    if (stat(path, &about) < 0)
        return -errno;
    *inode = (__u32)about.st_ino;
    return 0;
}

/* The process whose number in that namespace is 1. */
static int find_init(__u32 pid_namespace, __u32 *init, struct err *err)
{
    _cleanup_closedir_ DIR *proc = opendir("/proc");
    if (!proc)
        return err_set(err, errno, "open /proc");
    for (struct dirent *entry; (entry = readdir(proc));) {
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        __u32 its = 0;
        struct proc_info info;
        struct err ignored;
        if (pid <= 0 || read_namespace(pid, "pid", &its) || its != pid_namespace ||
            proc_read(pid, &info, &ignored) || info.inner_pid != 1)
            continue;
        *init = (__u32)pid;
        return 0;
    }
    return err_text(err, ESRCH, "the init of pid namespace %u is not seen from here",
                    pid_namespace);
}

int scope_of_process(enum scope_kind kind, pid_t pid, struct scope *out, struct err *err)
{
    struct scope scope = {.kind = kind};
    __u32 ours = 0;
    int error = read_namespace(pid, "pid", &scope.pid_namespace);
    if (!error)
        error = read_namespace(pid, "mnt", &scope.mount_namespace);
    if (!error)
        error = read_namespace(getpid(), "pid", &ours);
    if (error)
        return err_set(err, -error, "read the namespaces of process %d", pid);
    if (scope.pid_namespace == HOST_PID_NAMESPACE)
        return err_usage(err,
                         "process %d is in the host's pid namespace, in no container that its "
                         "namespaces or numbers would tell apart; use --scope cgroup",
                         pid);
    if (kind == SCOPE_PID && ours != HOST_PID_NAMESPACE)
        return err_lack(err, "the host's process numbers are not seen from inside a pid "
                             "namespace; use --scope cgroup or namespace");
    if (kind == SCOPE_PID)
        error = find_init(scope.pid_namespace, &scope.init, err);
    if (!error)
        *out = scope;
    return error;
}
