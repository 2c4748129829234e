/*
 * Where x86-64 instructions begin.  A breakpoint anywhere else would change the
 * instruction that it is in, and the kernel looks only at the bytes that it is given.
 *
 * Lengths follow the opcode maps (Intel SDM volume 2, appendix A) alone: what the bytes
 * do is not asked.  Any bytes may be given.
 */
#ifndef FREEZEPOINT_INSTRUCTION_H
#define FREEZEPOINT_INSTRUCTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The length of the first one; 0: no instruction, or not all of it is there. */
size_t instruction_length(const uint8_t *code, size_t size);

/* Whether one begins at code[offset], where one begins at code[0] and nothing but code
 * is between. */
bool instruction_begins(const uint8_t *code, size_t size, size_t offset);

#endif
