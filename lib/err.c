#include "lib/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* They must not reach a terminal. */
void err_make_printable(char *text)
{
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = ' ';
}

static void fill(struct err *err, int errnum, enum err_kind kind, const char *format, va_list args)
{
    err->errnum = errnum;
    err->kind = kind;
    vsnprintf(err->text, sizeof(err->text), format, args);
    err_make_printable(err->text);
}

static void append(struct err *err, const char *separator, const char *text)
{
    size_t used = strlen(err->text);
    snprintf(err->text + used, sizeof(err->text) - used, "%s%s", separator, text);
}

int err_set(struct err *err, int errnum, const char *format, ...)
{
    if (errnum == 0)
        errnum = EIO;
    va_list args;
    va_start(args, format);
    fill(err, errnum, ERR_FAILED, format, args);
    va_end(args);
    append(err, ": ", strerror(errnum));
    return -errnum;
}

int err_text(struct err *err, int errnum, const char *format, ...)
{
    if (errnum == 0)
        errnum = EIO;
    va_list args;
    va_start(args, format);
    fill(err, errnum, ERR_FAILED, format, args);
    va_end(args);
    return -errnum;
}

int err_usage(struct err *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(err, EINVAL, ERR_USAGE, format, args);
    va_end(args);
    return -EINVAL;
}

int err_lack(struct err *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(err, EOPNOTSUPP, ERR_LACK, format, args);
    va_end(args);
    return -EOPNOTSUPP;
}

int err_wrap(struct err *err, const char *format, ...)
{
    struct err inner = *err;
    va_list args;
    va_start(args, format);
    fill(err, inner.errnum, inner.kind, format, args);
    va_end(args);
    append(err, ": ", inner.text);
    return -err->errnum;
}

int err_hint(struct err *err, const char *format, ...)
{
    struct err hint;
    va_list args;
    va_start(args, format);
    fill(&hint, err->errnum, err->kind, format, args);
    va_end(args);
    append(err, "; ", hint.text);
    return -err->errnum;
}
