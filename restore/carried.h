/*
 * Putting back the files that an image brings along (trigger/carry.h).
 */
#ifndef FREEZEPOINT_CARRIED_H
#define FREEZEPOINT_CARRIED_H

#include "lib/err.h"
#include "lib/image.h"

/* Makes those that are missing, and the directory that each is in; what exists is
 * left as it is.  The image's files must have been verified. */
int carried_place(const struct image *image, struct err *err);

#endif
