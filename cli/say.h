/* What freezepoint tells people: one line each, on its error stream. */
#ifndef FREEZEPOINT_SAY_H
#define FREEZEPOINT_SAY_H

#include "lib/log.h"

/* "freezepoint: FORMAT". */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The sink for lib/log.h. */
log_sink say_log;

/* As supervision.h wants it; `context` is unused. */
void say_line(const char *line, void *context);

#endif
