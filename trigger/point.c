#include "trigger/point.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "preload/abi.h"

/* glibc's headers turn a call of the first into one of the others: fortification
 * (bits/ *2.h), 64-bit file offsets, and the newer call that run-time libraries
 * use for the same purpose. */
static const char *const aliases[][POINT_ALIAS_MAX + 2] = {
    {"accept", "accept4"},
    {"epoll_wait", "epoll_pwait", "epoll_pwait2"},
    {"poll", "ppoll", "__poll_chk", "__ppoll_chk"},
    {"select", "pselect"},
    {"read", "__read_chk"},
    {"pread", "pread64", "__pread_chk", "__pread64_chk"},
    {"pwrite", "pwrite64"},
    {"recv", "__recv_chk"},
    {"recvfrom", "__recvfrom_chk"},
    {"open", "open64", "openat", "openat64", "__open_2", "__open64_2", "__openat_2",
     "__openat64_2"},
    {"fopen", "fopen64"},
    {"mmap", "mmap64"},
    {"sendfile", "sendfile64"},
    {"printf", "__printf_chk"},
    {"fprintf", "__fprintf_chk"},
    {"memcpy", "__memcpy_chk"},
    {"strcpy", "__strcpy_chk"},
    {"longjmp", "__longjmp_chk"},
};

void point_names(const char *function, const char *names[POINT_ALIAS_MAX + 2])
{
    for (size_t i = 0; i < sizeof(aliases) / sizeof(aliases[0]); i++) {
        if (!strcmp(aliases[i][0], function)) {
            memcpy(names, aliases[i], sizeof(aliases[i]));
            return;
        }
    }
    names[0] = function;
    names[1] = NULL;
}

static int refuse(const char *spec, const char *at, const char *why, struct err *err)
{
    return err_usage(err,
                     "--at '%s': column %zu: %s; a point is [LIBRARY:]FUNCTION[#N], as in "
                     "'listen' or 'libc:epoll_wait#20'",
                     spec, (size_t)(at - spec) + 1, why);
}

static bool is_name_character(char c, bool first)
{
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    return letter || (!first && ((c >= '0' && c <= '9') || c == '$' || c == '.'));
}

static int parse_number(const char *spec, const char *digits, uint64_t *number, struct err *err)
{
    if (*digits < '0' || *digits > '9')
        return refuse(spec, digits, "a number is expected after '#'", err);
    char *end;
    errno = 0;
    unsigned long long value = strtoull(digits, &end, 10);
    if (*end == ':')
        return refuse(spec, end, "nothing may follow the number", err);
    if (*end)
        return refuse(spec, end, "that is not part of a number", err);
    if (errno || value >= UINT64_MAX / 2)
        return refuse(spec, digits, "the number is too large", err);
    if (value == 0)
        return refuse(spec, digits, "calls are counted from 1", err);
    *number = value;
    return 0;
}

static int check_library(const char *spec, const char *colon, struct err *err)
{
    if (colon == spec)
        return refuse(spec, spec, "the library's name is missing", err);
    if (colon - spec >= FZ_NAME_MAX)
        return refuse(spec, spec, "the library's name is too long", err);
    for (const char *c = spec; c < colon; c++)
        if (*c == '/' || (unsigned char)*c <= ' ' || *c == '#')
            return refuse(spec, c, "a library is given by its base name", err);
    if (!strncmp(spec, "probe:", 6))
        return refuse(spec, spec, "'probe:' points are not had by this version of freezepoint",
                      err);
    return 0;
}

static int parse_function(const char *spec, const char *name, size_t length, struct err *err)
{
    if (length == 0)
        return refuse(spec, name, "the function's name is missing", err);
    if (length >= FZ_NAME_MAX)
        return refuse(spec, name, "the function's name is too long", err);
    for (size_t i = 0; i < length; i++)
        if (!is_name_character(name[i], i == 0))
            return refuse(spec, name + i, "that cannot be in a function's name", err);
    return 0;
}

int point_parse(const char *spec, struct point *out, struct err *err)
{
    struct point point = {.number = 1};
    const char *hash = strchr(spec, '#');
    const char *end = hash ? hash : spec + strlen(spec);
    const char *colon = memchr(spec, ':', (size_t)(end - spec));
    const char *name = colon ? colon + 1 : spec;
    int error = colon ? check_library(spec, colon, err) : 0;
    if (!error && colon && !strncmp(name, "return", 6) && name + 6 == end)
        error = refuse(spec, colon, "':return' is not had by this version of freezepoint", err);
    if (!error)
        error = parse_function(spec, name, (size_t)(end - name), err);
    if (!error && hash)
        error = parse_number(spec, hash + 1, &point.number, err);
    if (error)
        return error;
    point.spec = strdup(spec);
    point.library = colon ? strndup(spec, (size_t)(colon - spec)) : NULL;
    point.function = strndup(name, (size_t)(end - name));
    if (!point.spec || !point.function || (colon && !point.library)) {
        point_release(&point);
        return err_set(err, ENOMEM, "--at");
    }
    *out = point;
    return 0;
}

void point_release(struct point *point)
{
    cleanup_free(&point->spec);
    cleanup_free(&point->library);
    cleanup_free(&point->function);
    *point = (struct point){0};
}
