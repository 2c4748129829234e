/* How what has been learnt of a program is shown, to people and as JSON. */
#ifndef FREEZEPOINT_POINTS_TEXT_H
#define FREEZEPOINT_POINTS_TEXT_H

#include <json-c/json.h>
#include <stdio.h>

#include "trigger/learn.h"

/* `argv`: the command, or NULL where it ran already. */
void points_print(FILE *to, const struct learnt *learnt, char *const argv[]);

/* An object of the caller's. */
struct json_object *points_json(const struct learnt *learnt, char *const argv[]);

#endif
