#include "lib/sockets.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/cgroup.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proc.h"

/* include/net/tcp_states.h */
enum { STATE_SYN_RECV = 3, STATE_CLOSE = 7, STATE_LISTEN = 10 };

struct inodes {
    uint64_t *list;
    size_t count, capacity;
};

static void free_inodes(struct inodes *inodes)
{
    free(inodes->list);
}

static int add_inode(struct inodes *inodes, uint64_t inode)
{
    if (inodes->count == inodes->capacity) {
        size_t capacity = inodes->capacity * 2 + 64;
        uint64_t *grown = reallocarray(inodes->list, capacity, sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        inodes->list = grown;
        inodes->capacity = capacity;
    }
    inodes->list[inodes->count++] = inode;
    return 0;
}

static int gather_inodes(pid_t pid, struct inodes *inodes)
{
    char path[64], target[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    _cleanup_closedir_ DIR *dir = opendir(path);
    int error = 0;
    for (struct dirent *entry; dir && !error && (entry = readdir(dir));) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
        uint64_t inode;
        target[n > 0 ? n : 0] = '\0';
        if (sscanf(target, "socket:[%" SCNu64 "]", &inode) == 1)
            error = add_inode(inodes, inode);
    }
    return error;
}

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* As the kernel prints it: 32-bit words in its own byte order, in hexadecimal. */
static bool parse_address(const char *text, struct socket_address *out)
{
    size_t digits = strspn(text, "0123456789ABCDEFabcdef");
    unsigned int words[4] = {0}, port;
    *out = (struct socket_address){.family = digits == 8 ? AF_INET : AF_INET6};
    if ((digits != 8 && digits != 32) || sscanf(text + digits, ":%x", &port) != 1 ||
        port > UINT16_MAX)
        return false;
    for (size_t i = 0; i < digits / 8; i++)
        if (sscanf(text + i * 8, "%8x", &words[i]) != 1)
            return false;
    memcpy(&out->v6, words, digits / 2);
    out->port = (uint16_t)port;
    /* Its packets are IPv4's. */
    if (out->family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&out->v6)) {
        out->family = AF_INET;
        out->v4.s_addr = words[3];
    }
    return true;
}

struct table {
    const char *name;
    bool stream;
};

struct gathering {
    struct inodes inodes; /* sorted */
    struct open_sockets found;
    size_t capacity;
    uint16_t *half_open; /* local ports of connections that are being opened */
    size_t half_open_count;
};

/* They have no inode: nobody has them open yet. */
static int add_half_open(struct gathering *self, uint16_t port)
{
    uint16_t *grown =
        reallocarray(self->half_open, self->half_open_count + 1, sizeof(*self->half_open));
    if (!grown)
        return -ENOMEM;
    self->half_open = grown;
    self->half_open[self->half_open_count++] = port;
    return 0;
}

static void count_half_open(struct gathering *self)
{
    for (size_t i = 0; i < self->found.count; i++)
        for (size_t k = 0; k < self->half_open_count; k++)
            if (self->found.list[i].kind == SOCKET_LISTENING &&
                self->found.list[i].local.port == self->half_open[k])
                self->found.list[i].waiting++;
}

static int add_socket(struct gathering *self, const struct open_socket *socket)
{
    if (self->found.count == self->capacity) {
        size_t capacity = self->capacity * 2 + 16;
        struct open_socket *grown = reallocarray(self->found.list, capacity, sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        self->found.list = grown;
        self->capacity = capacity;
    }
    self->found.list[self->found.count++] = *socket;
    return 0;
}

static int read_line(struct gathering *self, const char *line, bool stream)
{
    char local[64], remote[64];
    unsigned int state, received;
    uint64_t inode;
    struct open_socket socket = {.kind = SOCKET_DATAGRAM};
    if (sscanf(line, " %*u: %63s %63s %x %*x:%x %*x:%*x %*x %*u %*d %" SCNu64, local, remote,
               &state, &received, &inode) != 5 ||
        !parse_address(local, &socket.local) || !parse_address(remote, &socket.remote))
        return 0;
    if (stream && state == STATE_SYN_RECV)
        return add_half_open(self, socket.local.port);
    if ((stream && state == STATE_CLOSE) ||
        !bsearch(&inode, self->inodes.list, self->inodes.count, sizeof(inode), compare))
        return 0;
    if (stream)
        socket.kind = state == STATE_LISTEN ? SOCKET_LISTENING : SOCKET_CONNECTED;
    /* net/ipv4/tcp_ipv4.c, get_tcp4_sock(): the accept queue's length. */
    socket.waiting = socket.kind == SOCKET_LISTENING ? received : 0;
    return add_socket(self, &socket);
}

static int read_table(struct gathering *self, pid_t pid, const struct table *table)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/net/%s", pid, table->name);
    _cleanup_fclose_ FILE *file = fopen(path, "re");
    _cleanup_free_ char *line = NULL;
    size_t size = 0;
    int error = 0;
    while (file && !error && getline(&line, &size, file) > 0)
        error = read_line(self, line, table->stream);
    return error;
}

int sockets_find(const pid_t *pids, size_t pid_count, struct open_sockets *out, struct err *err)
{
    static const struct table tables[] = {
        {"tcp", true}, {"tcp6", true}, {"udp", false}, {"udp6", false}};
    struct gathering self = {.capacity = 0};
    int error = 0;
    for (size_t i = 0; i < pid_count && !error; i++)
        error = gather_inodes(pids[i], &self.inodes);
    if (self.inodes.count)
        qsort(self.inodes.list, self.inodes.count, sizeof(uint64_t), compare);
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]) && self.inodes.count && !error; i++)
        error = read_table(&self, pids[0], &tables[i]);
    count_half_open(&self);
    free(self.half_open);
    free_inodes(&self.inodes);
    if (error) {
        sockets_free(&self.found);
        return err_set(err, -error, "list the job's sockets");
    }
    *out = self.found;
    return 0;
}

int sockets_find_of_group(int group_fd, struct open_sockets *out, struct err *err)
{
    _cleanup_free_ pid_t *pids = NULL;
    ssize_t count = cgroup_processes(group_fd, &pids, err);
    return count < 0 ? (int)count : sockets_find(pids, (size_t)count, out, err);
}

static void end_repair(int pidfd, int number)
{
    int on = 0, off = 0;
    socklen_t size = sizeof(on);
    _cleanup_close_ int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
    if (fd >= 0 && getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, &size) == 0 && on &&
        setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off)) < 0)
        log_warning("sockets", "a connection stays in repair mode: %s", strerror(errno));
}

static void end_repairs_of(pid_t pid)
{
    char path[64], target[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    _cleanup_closedir_ DIR *dir = opendir(path);
    _cleanup_close_ int pidfd = proc_pidfd_open(pid);
    for (struct dirent *entry; dir && pidfd >= 0 && (entry = readdir(dir));) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = '\0';
        if (!strncmp(target, "socket:", strlen("socket:")))
            end_repair(pidfd, atoi(entry->d_name));
    }
}

void sockets_end_repair(int group_fd)
{
    struct err ignored;
    _cleanup_free_ pid_t *pids = NULL;
    ssize_t count = cgroup_processes(group_fd, &pids, &ignored);
    for (ssize_t i = 0; i < count; i++)
        end_repairs_of(pids[i]);
}

void sockets_free(struct open_sockets *sockets)
{
    free(sockets->list);
    *sockets = OPEN_SOCKETS_NONE;
}

bool socket_address_is_any(const struct socket_address *address)
{
    return address->family == AF_INET ? address->v4.s_addr == INADDR_ANY
                                      : IN6_IS_ADDR_UNSPECIFIED(&address->v6);
}

static size_t size_of(int family)
{
    return family == AF_INET ? sizeof(struct in_addr) : sizeof(struct in6_addr);
}

bool socket_address_equals(const struct socket_address *left, const struct socket_address *right)
{
    return left->family == right->family && left->port == right->port &&
           !memcmp(&left->v6, &right->v6, size_of(left->family));
}

size_t socket_address_pack(const struct socket_address *address,
                           uint8_t bytes[SOCKET_ADDRESS_PACKED])
{
    bytes[0] = (uint8_t)(address->port >> 8);
    bytes[1] = (uint8_t)address->port;
    memcpy(bytes + 2, &address->v6, size_of(address->family));
    return 2 + size_of(address->family);
}

bool socket_address_unpack(const uint8_t *bytes, size_t size, struct socket_address *out)
{
    if (size != 2 + size_of(AF_INET) && size != 2 + size_of(AF_INET6))
        return false;
    *out = (struct socket_address){.family = size == 2 + size_of(AF_INET) ? AF_INET : AF_INET6,
                                   .port = (uint16_t)(bytes[0] << 8 | bytes[1])};
    memcpy(&out->v6, bytes + 2, size - 2);
    return true;
}

void socket_address_text(const struct socket_address *address, char text[SOCKET_ADDRESS_TEXT])
{
    char host[INET6_ADDRSTRLEN];
    inet_ntop(address->family, &address->v6, host, sizeof(host));
    if (address->port == 0)
        snprintf(text, SOCKET_ADDRESS_TEXT, "%s", host);
    else if (address->family == AF_INET)
        snprintf(text, SOCKET_ADDRESS_TEXT, "%s:%u", host, address->port);
    else
        snprintf(text, SOCKET_ADDRESS_TEXT, "[%s]:%u", host, address->port);
}
