#include "restore/need_net.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/address.h"
#include "lib/fd.h"
#include "lib/fence.h"
#include "lib/sockets.h"

typedef Freezepoint__Stream__NeededPort NeededPort;

static size_t size_of(int family)
{
    return family == AF_INET ? sizeof(struct in_addr) : sizeof(struct in6_addr);
}

static bool is_loopback(const struct socket_address *address)
{
    return address->family == AF_INET ? ntohl(address->v4.s_addr) >> 24 == IN_LOOPBACKNET
                                      : IN6_IS_ADDR_LOOPBACK(&address->v6);
}

/* ---- the source ---- */

static int compare_sockets(const void *left, const void *right)
{
    const struct open_socket *a = left, *b = right;
    int order = (a->kind == SOCKET_DATAGRAM) - (b->kind == SOCKET_DATAGRAM);
    if (!order)
        order = a->local.family - b->local.family;
    if (!order)
        order = memcmp(&a->local.v6, &b->local.v6, size_of(a->local.family));
    return order ? order : a->local.port - b->local.port;
}

/* The other end, which is of the job, too. */
static bool has_other_end(const struct open_sockets *sockets, const struct open_socket *socket)
{
    for (size_t i = 0; i < sockets->count; i++) {
        const struct open_socket *other = &sockets->list[i];
        bool accepts = other->kind == SOCKET_LISTENING && other->local.port == socket->remote.port;
        if (accepts || (other->kind == SOCKET_CONNECTED &&
                        socket_address_equals(&other->local, &socket->remote) &&
                        socket_address_equals(&other->remote, &socket->local)))
            return true;
    }
    return false;
}

static int check_loopback(const struct open_sockets *sockets, struct err *err)
{
    const struct open_socket *first = NULL;
    size_t count = 0;
    for (size_t i = 0; i < sockets->count; i++) {
        const struct open_socket *socket = &sockets->list[i];
        if (socket->kind != SOCKET_CONNECTED || !is_loopback(&socket->remote) ||
            has_other_end(sockets, socket))
            continue;
        first = first ? first : socket;
        count++;
    }
    if (!first)
        return 0;
    char local[SOCKET_ADDRESS_TEXT], remote[SOCKET_ADDRESS_TEXT];
    socket_address_text(&first->local, local);
    socket_address_text(&first->remote, remote);
    return err_text(err, ENOTCONN,
                    "its connection from %s to %s (one of %zu such) leads to another program of "
                    "this host, and would be cut; end it first, or run both as one job",
                    local, remote, count);
}

static int add_port(Freezepoint__Stream__Need *need, const struct open_socket *socket)
{
    NeededPort *port = calloc(1, sizeof(*port));
    uint8_t *bytes = malloc(size_of(socket->local.family));
    if (!port || !bytes) {
        free(port);
        free(bytes);
        return -ENOMEM;
    }
    freezepoint__stream__needed_port__init(port);
    memcpy(bytes, &socket->local.v6, size_of(socket->local.family));
    port->address = (ProtobufCBinaryData){.len = size_of(socket->local.family), .data = bytes};
    port->port = socket->local.port;
    port->udp = socket->kind == SOCKET_DATAGRAM;
    need->ports[need->n_ports++] = port;
    return 0;
}

static int add_local(Freezepoint__Stream__Need *need, const struct socket_address *address)
{
    size_t size = size_of(address->family);
    if (socket_address_is_any(address) || is_loopback(address))
        return 0;
    for (size_t i = 0; i < need->n_local; i++)
        if (need->local[i].len == size && !memcmp(need->local[i].data, &address->v6, size))
            return 0;
    uint8_t *bytes = malloc(size);
    if (!bytes)
        return -ENOMEM;
    memcpy(bytes, &address->v6, size);
    need->local[need->n_local++] = (ProtobufCBinaryData){.len = size, .data = bytes};
    return 0;
}

/* They are sorted: those at one place stand together. */
static int add_socket(Freezepoint__Stream__Need *need, const struct open_sockets *sockets, size_t i)
{
    const struct open_socket *socket = &sockets->list[i];
    const struct open_socket *before = i ? &sockets->list[i - 1] : NULL;
    bool again = before && compare_sockets(before, socket) == 0 &&
                 (before->kind == SOCKET_CONNECTED) == (socket->kind == SOCKET_CONNECTED);
    int error = add_local(need, &socket->local);
    if (socket->kind == SOCKET_CONNECTED)
        need->connections++;
    else if (!error && !again && socket->local.port)
        error = add_port(need, socket);
    return error;
}

int need_net_gather(const pid_t *pids, size_t count, Freezepoint__Stream__Need *need,
                    struct err *err)
{
    _cleanup_(sockets_free) struct open_sockets sockets = OPEN_SOCKETS_NONE;
    int error = count ? sockets_find(pids, count, &sockets, err) : 0;
    if (!error)
        error = check_loopback(&sockets, err);
    if (error || sockets.count == 0)
        return error;
    qsort(sockets.list, sockets.count, sizeof(*sockets.list), compare_sockets);
    need->ports = calloc(sockets.count, sizeof(*need->ports));
    need->local = calloc(sockets.count, sizeof(*need->local));
    if (!need->ports || !need->local)
        error = -ENOMEM;
    for (size_t i = 0; i < sockets.count && !error; i++)
        error = add_socket(need, &sockets, i);
    return error ? err_set(err, -error, "list the job's ports") : 0;
}

void need_net_free(Freezepoint__Stream__Need *need)
{
    for (size_t i = 0; i < need->n_ports; i++)
        freezepoint__stream__needed_port__free_unpacked(need->ports[i], NULL);
    for (size_t i = 0; i < need->n_local; i++)
        free(need->local[i].data);
    free(need->ports);
    free(need->local);
    need->ports = NULL;
    need->local = NULL;
    need->n_ports = need->n_local = 0;
}

/* ---- the target ---- */

static bool read_address(const ProtobufCBinaryData *bytes, uint32_t port,
                         struct socket_address *out)
{
    if ((bytes->len != size_of(AF_INET) && bytes->len != size_of(AF_INET6)) || port > UINT16_MAX)
        return false;
    *out = (struct socket_address){.family = bytes->len == size_of(AF_INET) ? AF_INET : AF_INET6,
                                   .port = (uint16_t)port};
    memcpy(&out->v6, bytes->data, bytes->len);
    return true;
}

enum { TRY_UDP = 1, TRY_FOREIGN = 2, TRY_V6ONLY = 4 };

/* bind(2) tells; a port that is bound but not listened at is nobody's in the meantime.
 * TRY_FOREIGN: with an address that is not here yet.  Shared as CRIU shares it
 * (soccr/soccr.c and criu/sk-inet.c set SO_REUSEADDR for the time of the restore).
 * 0 or -errno. */
static int try_bind(const struct socket_address *address, int how)
{
    int on = 1, v6only = (how & TRY_V6ONLY) != 0;
    int kind = how & TRY_UDP ? SOCK_DGRAM : SOCK_STREAM;
    _cleanup_close_ int fd = socket(address->family, kind | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (how & TRY_FOREIGN)
        setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on));
    struct sockaddr_in v4 = {
        .sin_family = AF_INET, .sin_port = htons(address->port), .sin_addr = address->v4};
    struct sockaddr_in6 v6 = {
        .sin6_family = AF_INET6, .sin6_port = htons(address->port), .sin6_addr = address->v6};
    if (address->family == AF_INET)
        return bind(fd, (struct sockaddr *)&v4, sizeof(v4)) < 0 ? -errno : 0;
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only));
    return bind(fd, (struct sockaddr *)&v6, sizeof(v6)) < 0 ? -errno : 0;
}

/* Ports that the job has at 0.0.0.0, a bit each: where it has one at :: as well, that
 * one is for IPv6 alone. */
struct port_set {
    uint8_t bits[2][(UINT16_MAX + 1) / 8];
};

static void note_any_port(struct port_set *set, const struct socket_address *address, bool udp)
{
    if (address->family == AF_INET && socket_address_is_any(address))
        set->bits[udp][address->port / 8] |= (uint8_t)(1U << address->port % 8);
}

static bool has_any_port(const struct port_set *set, uint16_t port, bool udp)
{
    return set->bits[udp][port / 8] >> port % 8 & 1;
}

static void check_port(const struct socket_address *address, bool udp, const struct port_set *set,
                       struct refusals *refusals)
{
    char text[SOCKET_ADDRESS_TEXT];
    int how = TRY_FOREIGN | (udp ? TRY_UDP : 0);
    if (address->family == AF_INET6 &&
        (!socket_address_is_any(address) || has_any_port(set, address->port, udp)))
        how |= TRY_V6ONLY;
    int error = try_bind(address, how);
    socket_address_text(address, text);
    if (error == -EADDRINUSE)
        refuse(refusals, "%s port %s is in use here; 'ss -%snp sport = %u' tells by whom, end that",
               udp ? "UDP" : "TCP", text, udp ? "ua" : "tl", address->port);
    else if (error == -EAFNOSUPPORT || (error == -EADDRNOTAVAIL && address->family == AF_INET6))
        refuse(refusals, "the program has a port at %s and there is no IPv6 here; switch it on",
               text);
}

static void check_ports(const Freezepoint__Stream__Need *need, struct refusals *refusals)
{
    struct socket_address address;
    struct port_set set = {{{0}}};
    for (size_t i = 0; i < need->n_ports; i++)
        if (read_address(&need->ports[i]->address, need->ports[i]->port, &address))
            note_any_port(&set, &address, need->ports[i]->udp);
    for (size_t i = 0; i < need->n_ports; i++) {
        if (read_address(&need->ports[i]->address, need->ports[i]->port, &address))
            check_port(&address, need->ports[i]->udp, &set, refusals);
        else
            refuse(refusals, "a port that is needed is odd");
    }
}

/* Not only one that is moved, but all that the program is bound to. */
static bool comes_along(const Freezepoint__Stream__Need *need, const struct socket_address *address)
{
    for (size_t i = 0; i < need->n_addresses; i++) {
        struct moved_address moved;
        struct err ignored;
        if (address_parse(need->addresses[i], &moved, &ignored) == 0 &&
            socket_address_equals(&moved.address, address))
            return true;
    }
    return false;
}

static void check_local(const Freezepoint__Stream__Need *need, struct refusals *refusals)
{
    for (size_t i = 0; i < need->n_local && !need->hooks; i++) {
        struct socket_address address;
        char text[SOCKET_ADDRESS_TEXT], device[IFNAMSIZ];
        if (!read_address(&need->local[i], 0, &address)) {
            refuse(refusals, "an address that is needed is odd");
            continue;
        }
        if (comes_along(need, &address) || address_find(&address, device) ||
            try_bind(&address, 0) != -EADDRNOTAVAIL)
            continue;
        socket_address_text(&address, text);
        refuse(refusals,
               "sockets of the program are bound to %s, which is no address here; let it come "
               "along: migrate --move-address %s/PREFIX@INTERFACE",
               text, text);
    }
}

static void check_moved(const char *text, const char *device, struct refusals *refusals)
{
    struct moved_address moved;
    struct err err;
    char name[SOCKET_ADDRESS_TEXT], found[IFNAMSIZ];
    if (address_parse(text, &moved, &err)) {
        refuse(refusals, "%s", err.text);
        return;
    }
    device = device ? device : moved.device;
    socket_address_text(&moved.address, name);
    if (address_find(&moved.address, found))
        refuse(refusals,
               "%s is to come along and is here already, on %s; take it away there: ip "
               "address del %s/%u dev %s",
               name, found, name, moved.prefix, found);
    int up = address_device_is_up(device);
    if (up < 0)
        refuse(refusals,
               "%s is to come along to the interface '%s', which is not here; name one that is: "
               "receive --device INTERFACE",
               name, device);
    else if (!up)
        refuse(refusals, "%s is to come along to %s, which is down here: ip link set %s up", name,
               device, device);
}

void need_net_check(const Freezepoint__Stream__Need *need, const char *device,
                    struct refusals *refusals)
{
    for (size_t i = 0; i < need->n_addresses; i++)
        check_moved(need->addresses[i], device, refusals);
    check_ports(need, refusals);
    check_local(need, refusals);
}

void need_net_check_fence(const Freezepoint__Stream__Need *need, const char *id,
                          struct refusals *refusals)
{
    struct err err;
    if (need->n_addresses == 0 && need->n_ports == 0 && need->connections == 0)
        return;
    struct fence fence = FENCE_NONE;
    if (fence_start(id, &fence, &err))
        refuse(refusals, "%s", err.text);
    fence_end(&fence);
}
