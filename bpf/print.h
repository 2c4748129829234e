/* What libbpf says, as debug lines of the topic "bpf". */
#ifndef FREEZEPOINT_BPF_PRINT_H
#define FREEZEPOINT_BPF_PRINT_H

#include <stdarg.h>

#include <bpf/libbpf.h>

/* For libbpf_set_print(). */
int bpf_print(enum libbpf_print_level level, const char *format, va_list arguments);

#endif
