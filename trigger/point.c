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
#define USDT  "usdt:"

static bool begins_with(const char *spec, const char *prefix)
{
    return !strncmp(spec, prefix, strlen(prefix));
}

bool point_is_probe(const char *spec)
{
    return begins_with(spec, PROBE) || begins_with(spec, USDT);
}

static const char *find_form(const char *spec)
{
    if (begins_with(spec, PROBE))
        return "a probe is probe:PATH:SYMBOL[+OFFSET][#N], as in "
               "'probe:./server:handle_request#100'";
    if (begins_with(spec, USDT))
        return "a tracepoint is usdt:PATH:PROVIDER:NAME[#N], as in "
               "'usdt:/usr/bin/python3:python:gc__start#3'";
    return "a point is [LIBRARY:]FUNCTION[#N], as in 'listen' or 'libc:epoll_wait#20'";
}

static int refuse(const char *spec, const char *at, const char *why, struct err *err)
{
    return err_usage(err, "--at '%s': column %zu: %s; %s", spec, (size_t)(at - spec) + 1, why,
                     find_form(spec));
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

/* Of C, or any language's demangled name. */
static bool is_symbol_character(char c, bool first)
{
    (void)first;
    return (unsigned char)c >= ' ' && c != 0x7f;
}

static int check_name(const char *spec, const char *name, size_t length, size_t max,
                      bool (*is_allowed)(char c, bool first), struct err *err)
{
    if (length == 0)
        return refuse(spec, name, "the function's name is missing", err);
    if (length >= max)
        return refuse(spec, name, "the function's name is too long", err);
    for (size_t i = 0; i < length; i++)
        if (!is_allowed(name[i], i == 0))
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

static int check_symbol_name(const char *spec, const char *name, size_t length, struct err *err)
{
    return check_name(spec, name, length, POINT_SYMBOL_MAX, is_symbol_character, err);
}

/* An address stands for a name. */
static int check_symbol(const char *spec, const char *name, size_t length, struct err *err)
{
    if (length < 3 || name[0] != '0' || name[1] != 'x')
        return check_symbol_name(spec, name, length, err);
    uint64_t address;
    return parse_offset(spec, name, name + length, &address, err);
}

/* NULL: there is none. */
static const char *find_lone_colon(const char *path)
{
    for (const char *c = path + strlen(path); c-- > path;)
        if (*c == ':' && c[1] != ':' && (c == path || c[-1] != ':'))
            return c;
    return NULL;
}

/* "operator" with the pluses behind it, or nothing. */
static size_t operator_length(const char *text)
{
    static const char word[] = "operator+";
    size_t length = begins_with(text, word) ? strlen(word) : 0;
    return length && (text[length] == '+' || text[length] == '=') ? length + 1 : length;
}

/* Where a symbol's "+OFFSET" and "#N" begin, the end where there is none. */
struct suffixes {
    const char *plus, *hash, *end;
};

static struct suffixes find_suffixes(const char *name)
{
    struct suffixes found = {NULL};
    size_t depth = 0;
    const char *c = name;
    while (*c) {
        size_t skipped = operator_length(c);
        depth += *c == '{';
        depth -= *c == '}' && depth;
        if (*c == '+' && !depth && (!c[1] || (c[1] >= '0' && c[1] <= '9')))
            found.plus = c;
        if (*c == '#' && !depth)
            found.hash = c;
        c += skipped ? skipped : 1;
    }
    found.end = c;
    if (!found.hash)
        found.hash = c;
    if (!found.plus || found.plus > found.hash)
        found.plus = found.hash;
    return found;
}

size_t point_length_unnumbered(const char *spec)
{
    const char *colon = begins_with(spec, PROBE)  ? find_lone_colon(spec + strlen(PROBE))
                        : begins_with(spec, USDT) ? strrchr(spec, ':')
                                                  : NULL;
    if (colon && begins_with(spec, PROBE))
        return (size_t)(find_suffixes(colon + 1).hash - spec);
    const char *name = colon ? colon : spec;
    return (size_t)(name - spec) + strcspn(name, "#");
}

static int parse_probe(const char *spec, struct point *out, struct err *err)
{
    struct point point = {.number = 1, .is_probe = true};
    const char *path = spec + strlen(PROBE), *colon = find_lone_colon(path);
    if (!colon)
        return refuse(spec, path + strlen(path), "':' and a symbol are expected behind the path",
                      err);
    if (colon == path)
        return refuse(spec, path, "the path is missing", err);
    const char *name = colon + 1;
    struct suffixes suffixes = find_suffixes(name);
    size_t length = (size_t)(suffixes.plus - name);
    int error = check_symbol(spec, name, length, err);
    if (!error && suffixes.plus < suffixes.hash)
        error = parse_offset(spec, suffixes.plus + 1, suffixes.hash, &point.offset, err);
    if (!error && suffixes.hash < suffixes.end)
        error = parse_number(spec, suffixes.hash + 1, &point.number, err);
    if (!error)
        error = copy_texts(spec, path, (size_t)(colon - path), name, length, &point, err);
    if (!error)
        *out = point;
    return error;
}

/* NULL where there is none between the two. */
static const char *find_colon_before(const char *path, const char *end)
{
    return memrchr(path, ':', (size_t)(end - path));
}

static int parse_usdt(const char *spec, struct point *out, struct err *err)
{
    struct point point = {.number = 1, .is_probe = true};
    const char *path = spec + strlen(USDT), *last = strrchr(path, ':');
    const char *colon = last ? find_colon_before(path, last) : NULL;
    if (!colon)
        return refuse(spec, path + strlen(path),
                      "':', a provider, ':' and a name are expected behind the path", err);
    if (colon == path)
        return refuse(spec, path, "the path is missing", err);
    if (last == colon + 1)
        return refuse(spec, last, "the provider's name is missing", err);
    const char *name = last + 1, *hash = strchrnul(name, '#');
    int error = check_symbol_name(spec, colon + 1, (size_t)(last - colon - 1), err);
    if (!error)
        error = check_symbol_name(spec, name, (size_t)(hash - name), err);
    if (!error && *hash)
        error = parse_number(spec, hash + 1, &point.number, err);
    if (!error)
        error = copy_texts(spec, path, (size_t)(colon - path), name, (size_t)(hash - name), &point,
                           err);
    if (error)
        return error;
    point.provider = strndup(colon + 1, (size_t)(last - colon - 1));
    if (!point.provider) {
        point_release(&point);
        return err_set(err, ENOMEM, "--at");
    }
    *out = point;
    return 0;
}

int point_parse(const char *spec, struct point *out, struct err *err)
{
    if (begins_with(spec, PROBE))
        return parse_probe(spec, out, err);
    if (begins_with(spec, USDT))
        return parse_usdt(spec, out, err);
    struct point point = {.number = 1};
    const char *hash = strchr(spec, '#');
    const char *end = hash ? hash : spec + strlen(spec);
    const char *colon = memchr(spec, ':', (size_t)(end - spec));
    const char *name = colon ? colon + 1 : spec;
    int error = colon ? check_library(spec, colon, err) : 0;
    if (!error && colon && !strncmp(name, "return", 6) && name + 6 == end)
        error = refuse(spec, colon, "':return' is not had by this version of freezepoint", err);
    if (!error)
        error = check_name(spec, name, (size_t)(end - name), FZ_NAME_MAX, is_name_character, err);
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
    cleanup_free(&point->provider);
    *point = (struct point){0};
}
