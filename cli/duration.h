/* Times as options give them. */
#ifndef FREEZEPOINT_DURATION_H
#define FREEZEPOINT_DURATION_H

#include "lib/err.h"

/* "500ms", "2s", "2" (seconds), "1m": at least min_ms, at most an hour. */
int duration_parse(const char *option, const char *text, int min_ms, int *ms, struct err *err);

#endif
