/*
 * The page of `points --report`: one file that needs nothing else, from cli/page.html,
 * .css and .js, which are in the program, and the JSON of cli/points_text.h.
 */
#ifndef FREEZEPOINT_REPORT_H
#define FREEZEPOINT_REPORT_H

#include <json-c/json.h>

#include "lib/err.h"

/* Whether report_write() could; before anything is started for it. */
int report_check(const char *path, struct err *err);

/* Whole or not at all: under another name first. */
int report_write(const char *path, struct json_object *data, struct err *err);

#endif
