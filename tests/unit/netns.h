/*
 * Tests of what is done to a network: in a namespace of their own, where there is
 * nothing but what they make.
 */
#ifndef FREEZEPOINT_TESTS_NETNS_H
#define FREEZEPOINT_TESTS_NETNS_H

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/fd.h"

/* For the rest of the program.  False: not root, or the kernel lets us not. */
static inline bool netns_enter(void)
{
    return geteuid() == 0 && unshare(CLONE_NEWNET) == 0 && system("ip link set lo up") == 0;
}

/* Two interfaces, v0 and v1, that are each other's other end, up. */
static inline bool netns_add_pair(void)
{
    return system("ip link add v0 type veth peer name v1 && ip link set v0 up && "
                  "ip link set v1 up") == 0;
}

#endif
