/*
 * The build id of an ELF file: the note by which the linker names what it made.
 *
 * The file may be anybody's: what is read of it is bounded, and nothing in it is trusted.
 * No state; threads may call at will.
 */
#ifndef FREEZEPOINT_BUILD_ID_H
#define FREEZEPOINT_BUILD_ID_H

#include <stddef.h>
#include <stdint.h>

/* Usually 20 bytes, a SHA-1. */
#define BUILD_ID_MAX 64

/* Of a regular file, open for reading.  Its size; 0: it has none, or is no ELF file. */
size_t build_id_read(int fd, uint8_t id[BUILD_ID_MAX]);

#endif
