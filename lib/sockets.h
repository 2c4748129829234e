/*
 * The TCP and UDP sockets that the processes of a group have open, from /proc/PID/fd and
 * /proc/PID/net (Documentation/networking/proc_net_tcp.rst).  All processes of a group
 * are taken to be in one network namespace, that of `pids[0]`.
 *
 * No state; threads may call at will.
 */
#ifndef FREEZEPOINT_SOCKETS_H
#define FREEZEPOINT_SOCKETS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

struct socket_address {
    int family; /* AF_INET or AF_INET6 */
    union {
        struct in_addr v4;
        struct in6_addr v6;
    };
    uint16_t port; /* in our own order; 0: none */
};

enum socket_kind { SOCKET_LISTENING, SOCKET_CONNECTED, SOCKET_DATAGRAM };

struct open_socket {
    enum socket_kind kind;
    struct socket_address local, remote;
    /* Of a listening one: connections that nobody has accepted yet, half-open ones too. */
    uint32_t waiting;
};

struct open_sockets {
    struct open_socket *list;
    size_t count;
};

#define OPEN_SOCKETS_NONE ((struct open_sockets){0})

int sockets_find(const pid_t *pids, size_t pid_count, struct open_sockets *out, struct err *err);
int sockets_find_of_group(int group_fd, struct open_sockets *out, struct err *err);
void sockets_free(struct open_sockets *sockets);

/* A CRIU that is killed in the middle of a dump leaves connections in repair mode
 * (criu/sk-tcp.c), in which they neither send nor receive.  They get out of it. */
void sockets_end_repair(int group_fd);

bool socket_address_equals(const struct socket_address *left, const struct socket_address *right);

/* 0.0.0.0 or ::. */
bool socket_address_is_any(const struct socket_address *address);

/* In a message: the port, high byte first, and the address: 6 or 18 bytes. */
#define SOCKET_ADDRESS_PACKED 18

size_t socket_address_pack(const struct socket_address *address,
                           uint8_t bytes[SOCKET_ADDRESS_PACKED]);
/* False where that is none. */
bool socket_address_unpack(const uint8_t *bytes, size_t size, struct socket_address *out);

#define SOCKET_ADDRESS_TEXT 64

/* "10.0.0.1:80", "[fd00::1]:80"; without a port where that is 0. */
void socket_address_text(const struct socket_address *address, char text[SOCKET_ADDRESS_TEXT]);

#endif
