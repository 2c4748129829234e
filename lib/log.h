/*
 * The diagnostic log.  lib/ never prints on its own account: lines go to the
 * sink that cli/ installs, and only for topics that FREEZEPOINT_LOG asks for,
 * as in FREEZEPOINT_LOG=freeze:debug,criu:info or FREEZEPOINT_LOG=debug.
 */
#ifndef FREEZEPOINT_LOG_H
#define FREEZEPOINT_LOG_H

#include <stdbool.h>

enum log_level { LOG_WARNING, LOG_INFO, LOG_DEBUG };

typedef void log_sink(enum log_level level, const char *topic, const char *line);

/* `spec` as above or NULL: warnings alone. */
void log_init(const char *spec, log_sink *sink);

/* Whether a line would be shown: where making it, or having others make it, costs. */
bool log_is_wanted(enum log_level level, const char *topic);

void log_line(enum log_level level, const char *topic, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_warning(topic, ...) log_line(LOG_WARNING, topic, __VA_ARGS__)
#define log_info(topic, ...)    log_line(LOG_INFO, topic, __VA_ARGS__)
#define log_debug(topic, ...)   log_line(LOG_DEBUG, topic, __VA_ARGS__)

#endif
