#include "bpf/print.h"

#include <stdio.h>
#include <string.h>

#include "lib/log.h"

int bpf_print(enum libbpf_print_level level, const char *format, va_list arguments)
{
    if (level > LIBBPF_INFO || !log_is_wanted(LOG_DEBUG, "bpf"))
        return 0;
    char line[1024];
    vsnprintf(line, sizeof(line), format, arguments);
    line[strcspn(line, "\n")] = '\0';
    log_debug("bpf", "%s", line);
    return 0;
}
