/*
 * Keeping packets from and to a program that is on the move: they are dropped, never
 * answered, so that the other end tries again.
 *
 * The rules are in nftables tables that belong to a socket (`flags owner`, nft(8)): the
 * kernel removes them when nobody has it open any more, so nothing is left behind by
 * whoever is killed.  It was opened by a child of ours, an `nft` that waits for commands;
 * we hold it too, since the rules must outlive that where it is killed.  They are in the
 * network namespace of the caller.
 *
 * A fence belongs to one thread at a time.
 */
#ifndef FREEZEPOINT_FENCE_H
#define FREEZEPOINT_FENCE_H

#include <stddef.h>
#include <sys/types.h>

#include "lib/err.h"
#include "lib/sockets.h"

struct fence {
    pid_t pid;     /* the child; 0: none */
    int pidfd;     /* -1: none */
    int to, from;  /* its standard input, and what it says; CLOEXEC */
    int socket;    /* that the tables belong to; CLOEXEC */
    char name[32]; /* of the tables */
};

#define FENCE_NONE ((struct fence){.pid = 0, .pidfd = -1, .to = -1, .from = -1, .socket = -1})

/* Starts the child and makes the tables, empty.  ERR_LACK where there is no nft, or it
 * cannot. */
int fence_start(const char *name, struct fence *out, struct err *err);

/* A place is an address; with a port it is that port there, or everywhere where the
 * address is any (TCP). */

/* No new connection reaches these places. */
int fence_refuse_new(struct fence *fence, const struct socket_address *places, size_t count,
                     struct err *err);

/* Nothing reaches or leaves them any more; of those without a port nobody is told either
 * where they are (ARP, neighbour discovery). */
int fence_close_off(struct fence *fence, const struct socket_address *places, size_t count,
                    struct err *err);

/* Takes all rules away, at once; the child lives.  Where it does not, fence_end() does, if
 * nobody else holds the socket. */
int fence_open(struct fence *fence, struct err *err);

/* Ends the child; what is left of the rules goes with the socket.  Safe on FENCE_NONE. */
void fence_end(struct fence *fence);

#endif
