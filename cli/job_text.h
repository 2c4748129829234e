/* How running jobs are shown, to people and as JSON. */
#ifndef FREEZEPOINT_JOB_TEXT_H
#define FREEZEPOINT_JOB_TEXT_H

#include <json-c/json.h>
#include <stdio.h>

#include "lib/job_view.h"

/* All that is known, as an object of the caller's; null is what is not. */
struct json_object *job_json(const struct job_view *view);

/* Rows of text in columns that are as wide as they have to be.  Zeroed: empty. */
struct job_table {
    struct job_row *rows;
    size_t count;
};

int job_table_add(struct job_table *table, const struct job_view *view, struct err *err);
void job_table_print(FILE *to, const struct job_table *table);
void job_table_release(struct job_table *table);

#endif
