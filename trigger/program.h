/*
 * What a command is, before it is run: the file that will be executed, the
 * interpreter behind a script, the libraries that its loader will bring in, and
 * whether a preload library can reach it at all.
 */
#ifndef FREEZEPOINT_PROGRAM_H
#define FREEZEPOINT_PROGRAM_H

#include <limits.h>
#include <stddef.h>

#include "lib/err.h"

struct program {
    char path[PATH_MAX];       /* what execve(2) gets: absolute */
    char executable[PATH_MAX]; /* the ELF file behind it: itself, or a script's interpreter */
    char **libraries;          /* paths, the executable not among them */
    size_t library_count;
};

/* Finds COMMAND as execvp(3) does.  The error is that of execve(2): -ENOENT,
 * -EACCES. */
int program_find(const char *command, char *path, size_t size, struct err *err);

/*
 * Follows scripts to their interpreter (`env NAME` too) and asks the program's
 * own loader for its libraries (ld.so --list; that runs none of the program's
 * code).  ERR_USAGE for what no preload can reach: static, 32-bit and set-uid
 * programs.  program_release() frees; safe on zeroed memory.
 */
int program_examine(const char *path, char *const argv[], struct program *out, struct err *err);
void program_release(struct program *program);

#endif
