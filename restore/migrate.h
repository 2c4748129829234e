/*
 * Moving a running job to another host: the source's side, between the job's supervisor
 * (lib/request.h, trigger/handover.h) and the other side (lib/stream.h).
 *
 * The order: hello, with everything that could stand against it; hold: the job is dumped
 * and stands; its image is sent; the other side restores it and holds it, too; doubt: from
 * here on the job does not run before the other side has told whether the copy does; go;
 * running; the job is ended here.  Whatever fails before `doubt` lets it go on here.
 */
#ifndef FREEZEPOINT_MIGRATE_H
#define FREEZEPOINT_MIGRATE_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/job.h"
#include "lib/moving.h"

enum migrate_phase {
    MIGRATE_REFUSED, /* text: one of the other side's reasons */
    MIGRATE_HELLO,   /* the other side can; text: its name */
    MIGRATE_WAITING, /* for the job's next point */
    MIGRATE_HELD,    /* the job stands, its image is written */
    MIGRATE_SENDING, /* done and total bytes */
    MIGRATE_READY,   /* the copy is restored, but does not run */
    MIGRATE_ASKING,  /* the link was cut when it was to run; text: how */
    MIGRATE_RUNNING, /* text: the copy's name there */
    MIGRATE_NOTE,    /* something that the user should know; text */
    MIGRATE_PHASES
};

struct migrate_event {
    enum migrate_phase phase;
    uint64_t since_ns; /* since migrate() was called */
    uint64_t done, total;
    const char *text; /* or NULL */
};

struct migrate_request {
    const char *job;
    const char *via;              /* the command that reaches the other side */
    bool next_point;              /* at the job's next point, else at once */
    int timeout_ms;               /* how long that is waited for; 0: as long as it takes */
    const char *const *addresses; /* that go along, NULL-terminated (lib/address.h) */
    /* Commands (lib/hook.h), or NULL. */
    const char *before_freeze, *after_freeze, *before_resume, *after_resume;
    void (*tell)(void *context, const struct migrate_event *event);
    void *context;
    const volatile bool *interrupted; /* called off, as long as that can be */
};

struct migrated {
    char id[MOVING_ID_SIZE];
    char name[JOB_NAME_MAX + 1]; /* of the job there; "": not known */
    uint64_t stood_ns;           /* from the freeze to the word that the copy runs */
    uint64_t dump_ns, send_ns, restore_ns, total_ns;
    uint64_t size;   /* of the image, bytes */
    uint64_t sent;   /* over the link, bytes */
    uint64_t packed; /* of the image's bytes, those that were sent compressed */
};

/* SIGPIPE must be ignored.  -EINPROGRESS: the job stands, and its supervisor finds out
 * whether the copy runs; after any other failure it goes on here. */
int migrate(const struct migrate_request *request, struct migrated *out, struct err *err);

#endif
