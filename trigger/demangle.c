#include "trigger/demangle.h"

#include <string.h>

#include <libiberty/demangle.h>

#include "lib/fd.h"

/* A name that is no longer than this costs no time to speak of, whoever made it up. */
#define MANGLED_MAX 2048

static bool is_mangled(const char *name)
{
    return name[0] == '_' && (name[1] == 'Z' || name[1] == 'R') &&
           strnlen(name, MANGLED_MAX) < MANGLED_MAX;
}

char *demangle_full(const char *name)
{
    return is_mangled(name)
               ? cplus_demangle(name, DMGL_AUTO | DMGL_ANSI | DMGL_PARAMS | DMGL_RET_DROP)
               : NULL;
}

char *demangle_short(const char *name)
{
    return is_mangled(name) ? cplus_demangle(name, DMGL_AUTO | DMGL_ANSI) : NULL;
}

/* Blanks aside; `*rest` gets what `text` has beyond `beginning`. */
static bool begins_with(const char *text, const char *beginning, const char **rest)
{
    for (;;) {
        text += strspn(text, " ");
        beginning += strspn(beginning, " ");
        if (!*beginning || *text != *beginning)
            break;
        text++;
        beginning++;
    }
    *rest = text;
    return !*beginning;
}

bool demangle_is(const char *name, const char *wanted)
{
    _cleanup_free_ char *full = demangle_full(name);
    const char *rest;
    if (!full || !begins_with(full, wanted, &rest))
        return false;
    if (!*rest)
        return true;
    if (*rest != '(')
        return false;
    /* A parameter list, or that of the function which this one is in. */
    _cleanup_free_ char *brief = demangle_short(name);
    return brief && begins_with(brief, wanted, &rest) && !*rest;
}
