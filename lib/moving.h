/*
 * How a migration ends is decided where the copy is: it runs there, or it never will.
 * This is the record of that, on both sides, which outlives whoever is killed.
 *
 * The target.  /run/freezepoint/.arrivals/ID says how migration ID ended: whoever writes
 * it first decides.  The copy stands frozen until it has been written that it runs; an
 * enquiry, or the end of the copy's supervisor, writes that it never will.  Its job's
 * runtime directory has a file `arriving` with the ID as long as that is open.
 *
 * The source.  Before the other side is told to run the copy the job's runtime directory
 * gets a file `moving` with the ID and the command that reaches the other side, and the
 * job is frozen.  From there on it neither runs nor ends before the other side has told
 * how it ended, by itself or when it is asked.
 */
#ifndef FREEZEPOINT_MOVING_H
#define FREEZEPOINT_MOVING_H

#include <stdbool.h>

#include "lib/address.h"
#include "lib/err.h"

enum outcome { OUTCOME_OPEN, OUTCOME_RAN, OUTCOME_NEVER };

/* 32 hexadecimal digits. */
#define MOVING_ID_SIZE 33

int moving_make_id(char id[MOVING_ID_SIZE], struct err *err);
bool moving_id_is_valid(const char *id);

#define MOVING_VIA_MAX       (16 * 1024)
#define MOVING_ADDRESSES_MAX 1024

/* What either side has to know of a migration to settle it. */
struct moving {
    char id[MOVING_ID_SIZE];
    char addresses[MOVING_ADDRESSES_MAX]; /* that go along (lib/address.h), spaces between */
    char via[MOVING_VIA_MAX];             /* reaches the other side; on the target "" */
};

/* The record of either side as it is written: three lines, the number, the addresses, the
 * command (which may be several lines).  -EBADMSG. */
int moving_parse(const char *text, struct moving *out, struct err *err);

/* Puts one more behind the others; -E2BIG where there are too many. */
int moving_add_address(struct moving *moving, const char *text, struct err *err);

/* Calls `act` for each address; goes on after a failure, which it returns in the end. */
int moving_addresses(const struct moving *moving,
                     int (*act)(const struct moved_address *, struct err *), struct err *err);

/* ---- the target ---- */

/* Writes `wanted` unless it was decided before; returns what was decided (> 0), or
 * -errno.  What never ran is forgotten after a day, what ran is not. */
int arrival_decide(const char *id, enum outcome wanted, struct err *err);

/* Whether it was, without deciding anything. */
bool arrival_is_decided(const char *id);

/* The job's file. */
int arrival_begin(const char *runtime_path, const struct moving *moving, struct err *err);
void arrival_end(const char *runtime_path);

/* ---- the source ---- */

int moving_begin(const char *runtime_path, const struct moving *moving, struct err *err);
void moving_end(const char *runtime_path);

/* Asks the other side, once, bounded: OUTCOME_RAN, OUTCOME_NEVER, or -errno. */
int moving_ask(const struct moving *moving, struct err *err);

/* ---- both ---- */

/*
 * For a job whose supervisor is gone: finds out whether it may run here, as far as a
 * migration is concerned, and puts its addresses right.  OUTCOME_RAN where it may (or
 * was not on the move), OUTCOME_NEVER where it is to be killed, -errno where it cannot be
 * known yet: to be tried again.
 */
int moving_settle_orphan(const char *runtime_path, struct err *err);

#endif
