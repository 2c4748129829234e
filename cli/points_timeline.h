/* What a watched program did when, and who called, as JSON: for `points --json` and for
 * its page.  Times are in ns from the begin of the watching. */
#ifndef FREEZEPOINT_POINTS_TIMELINE_H
#define FREEZEPOINT_POINTS_TIMELINE_H

#include <json-c/json.h>

#include "trigger/learn.h"

/* An object of the caller's. */
struct json_object *timeline_json(const struct learnt *learnt);

/* The named callers of a hit, innermost first, or NULL where they are not known. */
struct json_object *callers_json(const struct learnt *learnt, const struct advice_hit *hit);

#endif
