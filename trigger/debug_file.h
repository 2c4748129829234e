/*
 * Where the symbols of a stripped file are: its separate debug file.
 *
 * Only below /usr/lib/debug, which is root's.  gdb also looks beside the program, where
 * anybody could have put one, and debuginfod asks the network.
 */
#ifndef FREEZEPOINT_DEBUG_FILE_H
#define FREEZEPOINT_DEBUG_FILE_H

#include <limits.h>
#include <stdbool.h>

/* By the file's build id, .build-id/xx/yyyy.debug, else by the name and the checksum that
 * it has in .gnu_debuglink, in the folder that is the file's own below /usr/lib/debug.
 * False: there is none. */
bool debug_file_find(const char *path, char out[PATH_MAX]);

/* The same below another folder, for tests. */
bool debug_file_find_below(const char *root, const char *path, char out[PATH_MAX]);

#endif
