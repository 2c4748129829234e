#include "lib/criu.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

int criu_ready_breakpoints(void)
{
    struct perf_event_attr nothing = {.type = PERF_TYPE_SOFTWARE,
                                      .size = sizeof(nothing),
                                      .config = PERF_COUNT_SW_DUMMY,
                                      .disabled = 1,
                                      .exclude_kernel = 1};
    long fd = syscall(SYS_perf_event_open, &nothing, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    return fd < 0 ? -errno : (int)fd;
}
