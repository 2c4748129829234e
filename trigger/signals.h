/*
 * Signals sent to freezepoint reach the program, and job control works through
 * it: ^Z stops both, fg continues both.
 */
#ifndef FREEZEPOINT_SIGNALS_H
#define FREEZEPOINT_SIGNALS_H

#include <stdbool.h>
#include <sys/signalfd.h>

#include "lib/err.h"
#include "trigger/supervision.h"

/* Passes on what came for freezepoint. */
int signals_forward(const struct supervision *job, const struct signalfd_siginfo *info,
                    struct err *err);

/* Whether the program is stopped, which signals_check_stopped() would find. */
bool signals_see_stopped(const struct supervision *job);

/* After SIGCHLD: where the program was stopped by ^Z, gives the terminal back and
 * stops freezepoint too; returns when it is continued. */
int signals_check_stopped(const struct supervision *job, struct err *err);

#endif
