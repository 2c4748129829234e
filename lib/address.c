#include "lib/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/if_ether.h>
#include <netinet/ip6.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"

static int odd(const char *text, struct err *err)
{
    return err_usage(err, "'%s': ADDRESS/PREFIX@INTERFACE is expected, as in 10.0.0.5/24@eth0",
                     text);
}

int address_parse(const char *text, struct moved_address *out, struct err *err)
{
    char host[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/'), *at = strchr(text, '@');
    char *end;
    if (!slash || !at || at < slash || (size_t)(slash - text) >= sizeof(host) ||
        strlen(at + 1) == 0 || strlen(at + 1) >= sizeof(out->device) || strpbrk(at + 1, "/ \t\n"))
        return odd(text, err);
    snprintf(host, sizeof(host), "%.*s", (int)(slash - text), text);
    struct moved_address address = {.address.family = strchr(host, ':') ? AF_INET6 : AF_INET};
    unsigned long prefix = strtoul(slash + 1, &end, 10);
    unsigned long most = address.address.family == AF_INET ? 32 : 128;
    if (inet_pton(address.address.family, host, &address.address.v6) != 1 || end != at ||
        slash[1] < '0' || slash[1] > '9' || prefix > most ||
        socket_address_is_any(&address.address))
        return odd(text, err);
    address.prefix = (unsigned int)prefix;
    snprintf(address.device, sizeof(address.device), "%s", at + 1);
    *out = address;
    return 0;
}

static bool is_same(const struct ifaddrs *entry, const struct socket_address *address)
{
    if (!entry->ifa_addr || entry->ifa_addr->sa_family != address->family)
        return false;
    if (address->family == AF_INET)
        return ((struct sockaddr_in *)entry->ifa_addr)->sin_addr.s_addr == address->v4.s_addr;
    return IN6_ARE_ADDR_EQUAL(&((struct sockaddr_in6 *)entry->ifa_addr)->sin6_addr, &address->v6);
}

/* 1, 0 or -errno. */
static int find_entry(const struct socket_address *address, const char *device,
                      char found[IFNAMSIZ])
{
    struct ifaddrs *list;
    int here = 0;
    if (getifaddrs(&list) < 0)
        return -errno;
    for (struct ifaddrs *entry = list; entry && !here; entry = entry->ifa_next) {
        if (!is_same(entry, address) || (device && strcmp(entry->ifa_name, device) != 0))
            continue;
        snprintf(found, IFNAMSIZ, "%s", entry->ifa_name);
        here = 1;
    }
    freeifaddrs(list);
    return here;
}

int address_is_here(const struct moved_address *address, struct err *err)
{
    char found[IFNAMSIZ];
    int here = find_entry(&address->address, address->device, found);
    return here < 0 ? err_set(err, -here, "list the interfaces' addresses") : here;
}

bool address_find(const struct socket_address *address, char device[IFNAMSIZ])
{
    return find_entry(address, NULL, device) == 1;
}

int address_device_is_up(const char *device)
{
    struct ifreq request = {0};
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", device);
    if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
        return -errno;
    return (request.ifr_flags & IFF_UP) != 0;
}

/* ---- the first of a subnet ---- */

struct subnet {
    in_addr_t network, mask;
};

static bool get_subnet(const struct ifaddrs *entry, const char *device, struct subnet *out)
{
    if (!entry->ifa_addr || entry->ifa_addr->sa_family != AF_INET || !entry->ifa_netmask ||
        strcmp(entry->ifa_name, device) != 0)
        return false;
    out->mask = ((struct sockaddr_in *)entry->ifa_netmask)->sin_addr.s_addr;
    out->network = ((struct sockaddr_in *)entry->ifa_addr)->sin_addr.s_addr & out->mask;
    return true;
}

/* The kernel lists them in this order: the first of each subnet before those that depend on
 * it (net/ipv4/devinet.c, __inet_insert_ifa()).  *other gets one of those. */
static bool has_dependents(const struct ifaddrs *list, const struct moved_address *address,
                           struct in_addr *other)
{
    struct subnet one;
    bool leads = false;
    in_addr_t mask = htonl(address->prefix ? UINT32_MAX << (32 - address->prefix) : 0);
    for (const struct ifaddrs *entry = list; entry; entry = entry->ifa_next) {
        if (!get_subnet(entry, address->device, &one) || one.mask != mask ||
            one.network != (address->address.v4.s_addr & mask))
            continue;
        if (leads) {
            *other = ((struct sockaddr_in *)entry->ifa_addr)->sin_addr;
            return true;
        }
        if (!is_same(entry, &address->address))
            return false;
        leads = true;
    }
    return false;
}

static bool promotes(const char *device)
{
    char path[96];
    char letter = '0';
    snprintf(path, sizeof(path), "/proc/sys/net/ipv4/conf/%s/promote_secondaries", device);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, &letter, 1) == 1 && letter != '0';
}

int address_check_leaving(const struct moved_address *address, struct err *err)
{
    struct ifaddrs *list;
    struct in_addr other;
    if (address->address.family != AF_INET || promotes("all") || promotes(address->device))
        return 0;
    if (getifaddrs(&list) < 0)
        return err_set(err, errno, "list the interfaces' addresses");
    bool others = has_dependents(list, address, &other);
    freeifaddrs(list);
    if (!others)
        return 0;
    char host[INET_ADDRSTRLEN], text[SOCKET_ADDRESS_TEXT];
    inet_ntop(AF_INET, &other, host, sizeof(host));
    socket_address_text(&address->address, text);
    return err_text(err, EBUSY,
                    "%s is the first address of its subnet on %s, and with it the kernel would "
                    "take away %s, too; let those stay: sysctl net.ipv4.conf.%s.promote_secondaries"
                    "=1",
                    text, address->device, host, address->device);
}

/* ---- the kernel's table (rtnetlink(7)) ---- */

/* One whole process does it: a child that did would go on where we are killed, and bring up
 * what somebody else has just looked for and not found. */
struct address_request {
    struct nlmsghdr header;
    struct ifaddrmsg message;
    char attributes[128];
};

static void add_attribute(struct address_request *request, unsigned short type, const void *data,
                          size_t size)
{
    struct rtattr *attribute =
        (struct rtattr *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = (unsigned short)RTA_LENGTH(size);
    memcpy(RTA_DATA(attribute), data, size);
    request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + (uint32_t)RTA_SPACE(size);
}

static int make_request(const struct moved_address *address, uint16_t type,
                        struct address_request *out, struct err *err)
{
    unsigned int device = if_nametoindex(address->device);
    if (device == 0)
        return err_set(err, errno, "interface %s", address->device);
    *out = (struct address_request){.header = {.nlmsg_len = NLMSG_LENGTH(sizeof(out->message)),
                                               .nlmsg_type = type,
                                               .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
                                    .message = {.ifa_family = (uint8_t)address->address.family,
                                                .ifa_prefixlen = (uint8_t)address->prefix,
                                                .ifa_index = device}};
    size_t size = address->address.family == AF_INET ? sizeof(address->address.v4)
                                                     : sizeof(address->address.v6);
    add_attribute(out, IFA_LOCAL, &address->address.v6, size);
    add_attribute(out, IFA_ADDRESS, &address->address.v6, size);
    return 0;
}

/* The kernel has done it, and answered, when send() returns. */
static int tell_kernel(const struct address_request *request, struct err *err)
{
    struct {
        struct nlmsghdr header;
        struct nlmsgerr answer;
        char rest[256];
    } reply;
    _cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0 || send(fd, request, request->header.nlmsg_len, 0) < 0)
        return err_set(err, errno, "rtnetlink");
    ssize_t n = recv(fd, &reply, sizeof(reply), MSG_DONTWAIT);
    if (n < 0)
        return err_set(err, errno, "rtnetlink");
    if (n < (ssize_t)(sizeof(reply.header) + sizeof(reply.answer)) ||
        reply.header.nlmsg_type != NLMSG_ERROR)
        return err_set(err, EPROTO, "rtnetlink");
    return reply.answer.error ? err_set(err, -reply.answer.error, "rtnetlink") : 0;
}

static int wrap(const struct moved_address *address, const char *verb, struct err *err)
{
    char text[SOCKET_ADDRESS_TEXT];
    socket_address_text(&address->address, text);
    return err_wrap(err, "%s %s/%u on %s", verb, text, address->prefix, address->device);
}

static int bring_up(const struct moved_address *address, uint32_t seconds, struct err *err)
{
    struct address_request request = {.attributes = ""};
    int error = make_request(address, RTM_NEWADDR, &request, err);
    if (error)
        return wrap(address, "bring up", err);
    request.header.nlmsg_flags |= NLM_F_CREATE | NLM_F_REPLACE;
    struct ifa_cacheinfo lifetime = {.ifa_prefered = seconds, .ifa_valid = seconds};
    add_attribute(&request, IFA_CACHEINFO, &lifetime, sizeof(lifetime));
    /* Duplicate address detection would find the one that it comes from. */
    uint32_t flags = IFA_F_NODAD;
    if (address->address.family == AF_INET6)
        add_attribute(&request, IFA_FLAGS, &flags, sizeof(flags));
    error = tell_kernel(&request, err);
    return error ? wrap(address, "bring up", err) : 0;
}

int address_lend(const struct moved_address *address, struct err *err)
{
    return bring_up(address, ADDRESS_LOAN_S, err);
}

int address_keep(const struct moved_address *address, struct err *err)
{
    return bring_up(address, UINT32_MAX, err);
}

int address_remove(const struct moved_address *address, struct err *err)
{
    struct address_request request = {.attributes = ""};
    int here = address_is_here(address, err);
    if (here <= 0)
        return here;
    int error = make_request(address, RTM_DELADDR, &request, err);
    if (!error)
        error = tell_kernel(&request, err);
    return error == -EADDRNOTAVAIL || !error ? 0 : wrap(address, "take away", err);
}

/* ---- telling the neighbours ---- */

static int get_hardware_address(int fd, const char *device, uint8_t out[ETH_ALEN])
{
    struct ifreq request = {0};
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", device);
    if (ioctl(fd, SIOCGIFHWADDR, &request) < 0)
        return -errno;
    if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
        return -EOPNOTSUPP;
    memcpy(out, request.ifr_hwaddr.sa_data, ETH_ALEN);
    return 0;
}

static size_t make_arp(const struct moved_address *address, const uint8_t own[ETH_ALEN],
                       uint16_t operation, uint8_t *frame)
{
    struct ether_header *head = (struct ether_header *)frame;
    struct ether_arp *arp = (struct ether_arp *)(head + 1);
    memset(head->ether_dhost, 0xff, ETH_ALEN);
    memcpy(head->ether_shost, own, ETH_ALEN);
    head->ether_type = htons(ETHERTYPE_ARP);
    arp->ea_hdr = (struct arphdr){.ar_hrd = htons(ARPHRD_ETHER),
                                  .ar_pro = htons(ETHERTYPE_IP),
                                  .ar_hln = ETH_ALEN,
                                  .ar_pln = 4,
                                  .ar_op = htons(operation)};
    memcpy(arp->arp_sha, own, ETH_ALEN);
    memcpy(arp->arp_spa, &address->address.v4, 4);
    memset(arp->arp_tha, operation == ARPOP_REPLY ? 0xff : 0, ETH_ALEN);
    memcpy(arp->arp_tpa, &address->address.v4, 4);
    return sizeof(*head) + sizeof(*arp);
}

static uint16_t sum_up(const void *bytes, size_t size, uint32_t sum)
{
    const uint8_t *next = bytes;
    for (size_t i = 0; i + 1 < size; i += 2)
        sum += (uint32_t)(next[i] << 8 | next[i + 1]);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~sum);
}

struct advertisement {
    struct ether_header ether;
    struct ip6_hdr ip;
    struct nd_neighbor_advert advert;
    struct nd_opt_hdr option;
    uint8_t own[ETH_ALEN];
} __attribute__((packed));

static size_t make_advertisement(const struct moved_address *address, const uint8_t own[ETH_ALEN],
                                 uint8_t *frame)
{
    struct advertisement message = {0};
    size_t length = sizeof(message.advert) + sizeof(message.option) + ETH_ALEN;
    static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1};
    static const uint8_t all_nodes_link[ETH_ALEN] = {0x33, 0x33, 0, 0, 0, 1};
    memcpy(message.ether.ether_dhost, all_nodes_link, ETH_ALEN);
    memcpy(message.ether.ether_shost, own, ETH_ALEN);
    message.ether.ether_type = htons(ETHERTYPE_IPV6);
    message.ip.ip6_flow = htonl(6U << 28);
    message.ip.ip6_plen = htons((uint16_t)length);
    message.ip.ip6_nxt = IPPROTO_ICMPV6;
    message.ip.ip6_hlim = 255;
    message.ip.ip6_src = address->address.v6;
    memcpy(&message.ip.ip6_dst, all_nodes, sizeof(all_nodes));
    message.advert.nd_na_type = ND_NEIGHBOR_ADVERT;
    message.advert.nd_na_flags_reserved = ND_NA_FLAG_OVERRIDE;
    message.advert.nd_na_target = address->address.v6;
    message.option = (struct nd_opt_hdr){ND_OPT_TARGET_LINKADDR, 1};
    memcpy(message.own, own, ETH_ALEN);
    /* The pseudo-header's sum (RFC 8200, 8.1): both addresses, length, next header. */
    uint8_t pseudo[40] = {0};
    memcpy(pseudo, &message.ip.ip6_src, 16);
    memcpy(pseudo + 16, all_nodes, 16);
    pseudo[35] = (uint8_t)length;
    pseudo[39] = IPPROTO_ICMPV6;
    uint32_t sum = (uint16_t)~ntohs(sum_up(pseudo, sizeof(pseudo), 0));
    message.advert.nd_na_cksum = sum_up(&message.advert, length, sum);
    memcpy(frame, &message, sizeof(message));
    return sizeof(message);
}

static int put_frame(int fd, const struct moved_address *address, const uint8_t *frame, size_t size,
                     struct err *err)
{
    struct sockaddr_ll to = {.sll_family = AF_PACKET,
                             .sll_ifindex = (int)if_nametoindex(address->device),
                             .sll_halen = ETH_ALEN};
    memcpy(to.sll_addr, frame, ETH_ALEN);
    if (sendto(fd, frame, size, 0, (struct sockaddr *)&to, sizeof(to)) < 0)
        return err_set(err, errno, "announce the address on %s", address->device);
    return 0;
}

int address_announce(const struct moved_address *address, struct err *err)
{
    uint8_t own[ETH_ALEN], frame[128];
    _cleanup_close_ int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, errno, "open a packet socket");
    int error = get_hardware_address(fd, address->device, own);
    /* Links without such addresses have no neighbours to tell. */
    if (error == -EOPNOTSUPP)
        return 0;
    if (error)
        return err_set(err, -error, "the hardware address of %s", address->device);
    if (address->address.family == AF_INET6)
        return put_frame(fd, address, frame, make_advertisement(address, own, frame), err);
    /* Some listen to the one and some to the other. */
    error = put_frame(fd, address, frame, make_arp(address, own, ARPOP_REQUEST, frame), err);
    if (!error)
        error = put_frame(fd, address, frame, make_arp(address, own, ARPOP_REPLY, frame), err);
    return error;
}
