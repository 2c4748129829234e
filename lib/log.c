#include "lib/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char *wanted;
static log_sink *sink;

void log_init(const char *spec, log_sink *to)
{
    wanted = spec;
    sink = to;
}

static enum log_level level_named(const char *name, size_t length)
{
    if (length == 5 && !strncmp(name, "debug", 5))
        return LOG_DEBUG;
    if (length == 4 && !strncmp(name, "info", 4))
        return LOG_INFO;
    return LOG_WARNING;
}

bool log_is_wanted(enum log_level level, const char *topic)
{
    if (!sink)
        return false;
    if (level == LOG_WARNING)
        return true;
    for (const char *part = wanted; part && *part;) {
        size_t length = strcspn(part, ",");
        const char *colon = memchr(part, ':', length);
        const char *name = colon ? colon + 1 : part;
        bool topic_fits = !colon || (strlen(topic) == (size_t)(colon - part) &&
                                     !strncmp(part, topic, (size_t)(colon - part)));
        if (topic_fits && level <= level_named(name, (size_t)(part + length - name)))
            return true;
        part += length + (part[length] == ',');
    }
    return false;
}

void log_line(enum log_level level, const char *topic, const char *format, ...)
{
    if (!log_is_wanted(level, topic))
        return;
    int saved = errno;
    char line[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < ' ' && *c != '\t')
            *c = ' ';
    sink(level, topic, line);
    errno = saved;
}
