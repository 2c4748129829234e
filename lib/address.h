/*
 * Addresses that move with a job, from one host's interface to another's.
 *
 * In the network namespace of the caller.  Bringing one up is a loan that runs out by
 * itself (the kernel's valid_lft) until it is made good: whoever is killed in between
 * leaves nothing behind for long.
 */
#ifndef FREEZEPOINT_ADDRESS_H
#define FREEZEPOINT_ADDRESS_H

#include <net/if.h>
#include <stdbool.h>

#include "lib/err.h"
#include "lib/sockets.h"

#define ADDRESS_LOAN_S 120

struct moved_address {
    struct socket_address address; /* without a port */
    unsigned int prefix;
    char device[IFNAMSIZ];
};

/* "ADDR/PLEN@DEV". */
int address_parse(const char *text, struct moved_address *out, struct err *err);

/* Whether it is on that interface: 1, 0 or -errno. */
int address_is_here(const struct moved_address *address, struct err *err);

/* Whether it is on any interface of this host; `device` gets which. */
bool address_find(const struct socket_address *address, char device[IFNAMSIZ]);

/* 1, 0, or -errno where there is no such interface. */
int address_device_is_up(const char *device);

/* Whether the host can do without it: with the first IPv4 address of a subnet the kernel
 * takes away the others of it (promote_secondaries in
 * Documentation/networking/ip-sysctl.rst).  -EBUSY where they would go, too. */
int address_check_leaving(const struct moved_address *address, struct err *err);

/* Until ADDRESS_LOAN_S have passed. */
int address_lend(const struct moved_address *address, struct err *err);
/* For good. */
int address_keep(const struct moved_address *address, struct err *err);
/* A missing one is no error. */
int address_remove(const struct moved_address *address, struct err *err);

/* Tells the neighbours where it is now: gratuitous ARP (RFC 5227, 3), or an unsolicited
 * neighbour advertisement (RFC 4861, 7.2.6). */
int address_announce(const struct moved_address *address, struct err *err);

#endif
