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

#define PROBE "probe:"

bool point_is_probe(const char *spec)
{
    return !strncmp(spec, PROBE, strlen(PROBE));
}

static int refuse(const char *spec, const char *at, const char *why, struct err *err)
{
    const char *form = point_is_probe(spec)
                           ? "a probe is probe:PATH:SYMBOL[+OFFSET][#N], as in "
                             "'probe:./server:handle_request#100'"
                           : "a point is [LIBRARY:]FUNCTION[#N], as in 'listen' or "
                             "'libc:epoll_wait#20'";
    return err_usage(err, "--at '%s': column %zu: %s; %s", spec, (size_t)(at - spec) + 1, why,
                     form);
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

static int copy_texts(const char *spec, const char *library, size_t library_length,
                      const char *name, size_t length, struct point *point, struct err *err)
{
    point->spec = strdup(spec);
    point->library = library ? strndup(library, library_length) : NULL;
    point->function = strndup(name, length);
    if (point->spec && point->function && (!library || point->library))
        return 0;
    point_release(point);
    return err_set(err, ENOMEM, "--at");
}

static int parse_offset(const char *spec, const char *digits, const char *end, uint64_t *offset,
                        struct err *err)
{
    char *stop;
    if (*digits < '0' || *digits > '9')
        return refuse(spec, digits, "a number is expected after '+'", err);
    errno = 0;
    *offset = strtoull(digits, &stop, digits[1] == 'x' ? 16 : 10);
    if (stop != end)
        return refuse(spec, stop, "that is not part of a number", err);
    return errno ? refuse(spec, digits, "the offset is too large", err) : 0;
}

/* An address stands for a name. */
static int check_symbol(const char *spec, const char *name, size_t length, struct err *err)
{
    if (length < 3 || name[0] != '0' || name[1] != 'x')
        return parse_function(spec, name, length, err);
    uint64_t address;
    return parse_offset(spec, name, name + length, &address, err);
}

/* The path may have any characters: the last ':' is the one behind it. */
static int parse_probe(const char *spec, struct point *out, struct err *err)
{
    struct point point = {.number = 1, .is_probe = true};
    const char *path = spec + strlen(PROBE), *colon = strrchr(path, ':');
    if (!colon)
        return refuse(spec, path + strlen(path), "':' and a symbol are expected behind the path",
                      err);
    if (colon == path)
        return refuse(spec, path, "the path is missing", err);
    const char *name = colon + 1, *hash = strchr(name, '#');
    const char *end = hash ? hash : name + strlen(name);
    const char *plus = memchr(name, '+', (size_t)(end - name));
    size_t length = (size_t)((plus ? plus : end) - name);
    int error = check_symbol(spec, name, length, err);
    if (!error && plus)
        error = parse_offset(spec, plus + 1, end, &point.offset, err);
    if (!error && hash)
        error = parse_number(spec, hash + 1, &point.number, err);
    if (!error)
        error = copy_texts(spec, path, (size_t)(colon - path), name, length, &point, err);
    if (!error)
        *out = point;
    return error;
}

int point_parse(const char *spec, struct point *out, struct err *err)
{
    if (point_is_probe(spec))
        return parse_probe(spec, out, err);
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
    if (!error)
        error = copy_texts(spec, colon ? spec : NULL, (size_t)((colon ? colon : spec) - spec), name,
                           (size_t)(end - name), &point, err);
    if (!error)
        *out = point;
    return error;
}

void point_release(struct point *point)
{
    cleanup_free(&point->spec);
    cleanup_free(&point->library);
    cleanup_free(&point->function);
    *point = (struct point){0};
}
