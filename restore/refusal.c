#include "restore/refusal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void append(struct refusals *refusals, const char *text)
{
    char *copy = strdup(text);
    if (copy)
        refusals->list[refusals->count++] = copy;
}

void refuse(struct refusals *refusals, const char *format, ...)
{
    char text[1024];
    if (refusals->count == REFUSALS_MAX) {
        refusals->more++;
        return;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    append(refusals, text);
}

void refusals_close(struct refusals *refusals)
{
    char text[64];
    if (refusals->more) {
        snprintf(text, sizeof(text), "and %zu more reasons", refusals->more);
        append(refusals, text);
        refusals->more = 0;
    }
}

void refusals_release(struct refusals *refusals)
{
    for (size_t i = 0; i < refusals->count; i++)
        free(refusals->list[i]);
    *refusals = REFUSALS_NONE;
}
