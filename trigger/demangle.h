/*
 * What compilers made of names, as people write them: C++ and Rust (both manglings).
 *
 * By libiberty, which is binutils' and gdb's and the only demangler of both that C can
 * call: __cxa_demangle() knows no Rust.  It is linked statically, as it is made to be, and
 * its licence (LGPL, with leave to link) allows that in a program under MIT.
 */
#ifndef FREEZEPOINT_DEMANGLE_H
#define FREEZEPOINT_DEMANGLE_H

#include <stdbool.h>

/* With parameters, and without; NULL where the name is none of those.  The caller frees
 * it. */
char *demangle_full(const char *name);
char *demangle_short(const char *name);

/* Whether `name` is that of the function which somebody calls `wanted`: with its
 * parameters or without, blanks aside. */
bool demangle_is(const char *name, const char *wanted);

#endif
