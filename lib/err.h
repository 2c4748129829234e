/*
 * Errors travel as values: a fallible function returns 0 or -errno and takes a
 * `struct err *` as its last parameter, which it fills once, where the failure
 * is understood.  Callers add context with err_wrap().  Only cli/ prints.
 *
 * An err is plain memory: nothing to initialise but zero, nothing to free.
 */
#ifndef FREEZEPOINT_ERR_H
#define FREEZEPOINT_ERR_H

#include <stddef.h>

/* What the command line's exit status becomes; the values are those statuses. */
enum err_kind {
    ERR_FAILED = 1, /* it was tried and did not work */
    ERR_USAGE = 2,  /* what was asked for makes no sense */
    ERR_LACK = 77,  /* this machine lacks something */
};

struct err {
    int errnum; /* positive errno, never 0 once set */
    enum err_kind kind;
    char text[1024]; /* one line, no trailing newline */
};

/* "FORMAT: strerror(errnum)".  Returns -errnum (EIO where errnum is 0). */
int err_set(struct err *err, int errnum, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "FORMAT" alone, where strerror() would mislead.  Returns -errnum. */
int err_text(struct err *err, int errnum, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* As err_text(), of kind ERR_USAGE; returns -EINVAL. */
int err_usage(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* As err_text(), of kind ERR_LACK; returns -EOPNOTSUPP. */
int err_lack(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "FORMAT: " before the text that is there.  Returns -err->errnum. */
int err_wrap(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "; FORMAT" behind the text that is there: the remedy. Returns -err->errnum. */
int err_hint(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Control characters become spaces: for names and texts that came from outside and are
 * shown otherwise than in an err. */
void err_make_printable(char *text);

#endif
