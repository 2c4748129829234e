/*
 * Named fault points: moments at which a test can have the process die or stand
 * still, as if it had been killed or had to wait just there.
 *
 * $FREEZEPOINT_FAULT is NAME=kill (SIGKILL) or NAME=stop (SIGSTOP), for several
 * points with commas between.  Without it a point is one getenv(3).  Any thread.
 */
#ifndef FREEZEPOINT_FAULT_H
#define FREEZEPOINT_FAULT_H

void fault_point(const char *name);

#endif
