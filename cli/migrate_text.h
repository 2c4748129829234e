/* What people and scripts see of a migration: a bar on a terminal, lines elsewhere, or
 * JSON, one object a line, on standard output. */
#ifndef FREEZEPOINT_MIGRATE_TEXT_H
#define FREEZEPOINT_MIGRATE_TEXT_H

#include <stdbool.h>

#include "restore/migrate.h"

struct migrate_text {
    bool json;
    const char *job;
    /* Its own. */
    bool terminal; /* a bar is drawn */
    bool drawn;    /* one stands there */
    uint64_t sending_ns, last_ns;
};

void migrate_text_begin(struct migrate_text *text);

/* As struct migrate_request wants it. */
void migrate_text_event(void *context, const struct migrate_event *event);

/* The end of it, good or not; of a failure that is told elsewhere it only takes the bar
 * away. */
void migrate_text_end(struct migrate_text *text, const struct migrated *done, int error,
                      const struct err *err);

#endif
