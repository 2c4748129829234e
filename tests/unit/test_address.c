/* Addresses that move: read, lent, kept, removed, announced, in a namespace of the test's. */
#include "lib/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/icmp6.h>
#include <netinet/if_ether.h>
#include <netinet/ip6.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "tests/unit/netns.h"

static struct moved_address parsed(const char *text)
{
    struct moved_address address;
    struct err err;
    if (address_parse(text, &address, &err))
        fail_msg("%s", err.text);
    return address;
}

static void reads_good_ones(void **state)
{
    (void)state;
    static const char *const texts[] = {"10.0.0.5/24@eth0", "10.0.0.5/32@eth0.100",
                                        "1.2.3.4/0@x",      "fd00::5/64@br-lan",
                                        "fe80::1/128@eth0", "10.0.0.5/24@fifteen-letters"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct moved_address address = parsed(texts[i]);
        char host[SOCKET_ADDRESS_TEXT], whole[128];
        socket_address_text(&address.address, host);
        snprintf(whole, sizeof(whole), "%s/%u@%s", host, address.prefix, address.device);
        assert_string_equal(whole, texts[i]);
        assert_int_equal(address.address.port, 0);
    }
}

static void refuses_odd_ones(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "10.0.0.5",
        "10.0.0.5/24",
        "10.0.0.5@eth0",
        "10.0.0.5/24@",
        "10.0.0.5/33@eth0",
        "10.0.0.5/@eth0",
        "10.0.0.5/-1@eth0",
        "10.0.0.5/+1@eth0",
        "10.0.0.5/ 1@eth0",
        "10.0.0.5/24x@eth0",
        "10.0.0/24@eth0",
        "10.0.0.256/24@eth0",
        "0.0.0.0/0@eth0",
        "::/0@eth0",
        "fd00::5/129@eth0",
        "fd00::g/64@eth0",
        "@/",
        "/@",
        "a@b/c",
        "10.0.0.5/24@eth 0",
        "10.0.0.5/24@eth0\n",
        "10.0.0.5/24@a/b",
        "10.0.0.5/24@sixteen-letters.",
        "10.0.0.5/99999999999999999999999@eth0",
        "1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111/64@eth0"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct moved_address address;
        struct err err;
        if (address_parse(texts[i], &address, &err) != -EINVAL || err.kind != ERR_USAGE)
            fail_msg("'%s' was taken", texts[i]);
    }
}

/* The line of `ip address` with it, "" where there is none. */
static void show(const char *host, char line[512])
{
    char command[128];
    snprintf(command, sizeof(command), "ip -o address show | grep ' %s/'", host);
    FILE *output = popen(command, "re");
    line[0] = '\0';
    if (!fgets(line, 512, output))
        line[0] = '\0';
    pclose(output);
}

static void lends_keeps_and_removes(void **state)
{
    (void)state;
    static const char *const texts[] = {"10.77.0.5/24@v0", "fd77::5/64@v0"};
    static const char *const hosts[] = {"10.77.0.5", "fd77::5"};
    for (size_t i = 0; i < 2; i++) {
        struct moved_address address = parsed(texts[i]);
        struct err err;
        char line[512], device[IFNAMSIZ];
        assert_int_equal(address_is_here(&address, &err), 0);
        assert_false(address_find(&address.address, device));
        assert_int_equal(address_remove(&address, &err), 0);
        assert_int_equal(address_lend(&address, &err), 0);
        assert_int_equal(address_is_here(&address, &err), 1);
        assert_true(address_find(&address.address, device));
        assert_string_equal(device, "v0");
        show(hosts[i], line);
        assert_non_null(strstr(line, "valid_lft 1"));
        assert_null(strstr(line, "tentative"));
        assert_int_equal(address_keep(&address, &err), 0);
        show(hosts[i], line);
        assert_non_null(strstr(line, "valid_lft forever"));
        assert_int_equal(address_remove(&address, &err), 0);
        show(hosts[i], line);
        assert_string_equal(line, "");
    }
    struct moved_address nowhere = parsed("10.77.0.5/24@nowhere");
    struct err err;
    assert_true(address_lend(&nowhere, &err) < 0);
    assert_int_equal(address_is_here(&nowhere, &err), 0);
    assert_int_equal(address_device_is_up("v0"), 1);
    assert_int_equal(address_device_is_up("nowhere"), -ENODEV);
    assert_int_equal(system("ip link add v8 type veth peer name v9"), 0);
    assert_int_equal(address_device_is_up("v8"), 0);
    assert_int_equal(system("ip link del v8"), 0);
}

static void leaving_takes_no_others_along(void **state)
{
    (void)state;
    struct err err;
    struct moved_address first = parsed("10.77.0.1/24@v0"), second = parsed("10.77.0.2/24@v0"),
                         alone = parsed("10.78.0.1/24@v0"), wider = parsed("10.77.0.3/16@v0");
    assert_int_equal(system("for a in 10.77.0.1/24 10.77.0.2/24 10.78.0.1/24 10.77.0.3/16; do "
                            "ip address add $a dev v0; done"),
                     0);
    assert_int_equal(system("echo 0 >/proc/sys/net/ipv4/conf/v0/promote_secondaries; "
                            "echo 0 >/proc/sys/net/ipv4/conf/all/promote_secondaries"),
                     0);
    assert_int_equal(address_check_leaving(&first, &err), -EBUSY);
    assert_non_null(strstr(err.text, "10.77.0.2"));
    assert_non_null(strstr(err.text, "promote_secondaries"));
    assert_int_equal(address_check_leaving(&second, &err), 0);
    assert_int_equal(address_check_leaving(&alone, &err), 0);
    assert_int_equal(address_check_leaving(&wider, &err), 0);
    assert_int_equal(system("echo 1 >/proc/sys/net/ipv4/conf/v0/promote_secondaries"), 0);
    assert_int_equal(address_check_leaving(&first, &err), 0);
    assert_int_equal(address_remove(&first, &err), 0);
    /* As was promised. */
    assert_int_equal(address_is_here(&second, &err), 1);
    assert_int_equal(system("ip -4 address flush dev v0"), 0);
}

static void hardware_address(const char *device, uint8_t out[ETH_ALEN])
{
    struct ifreq request = {0};
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", device);
    assert_int_equal(ioctl(fd, SIOCGIFHWADDR, &request), 0);
    memcpy(out, request.ifr_hwaddr.sa_data, ETH_ALEN);
}

/* What arrives at v1 of that protocol. */
static int listen_at_other_end(uint16_t protocol)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(protocol));
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(protocol),
                                  .sll_ifindex = (int)if_nametoindex("v1")};
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static size_t next_frame(int fd, uint8_t frame[2048])
{
    assert_true(fd_wait(fd, POLLIN, 5000) > 0);
    ssize_t n = recv(fd, frame, 2048, 0);
    assert_true(n > 0);
    return (size_t)n;
}

static void announces_by_arp(void **state)
{
    (void)state;
    struct err err;
    struct moved_address address = parsed("10.77.0.5/24@v0");
    uint8_t own[ETH_ALEN], frame[2048];
    static const uint8_t all[ETH_ALEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, none[ETH_ALEN];
    hardware_address("v0", own);
    _cleanup_close_ int fd = listen_at_other_end(ETH_P_ARP);
    assert_int_equal(address_announce(&address, &err), 0);
    for (uint16_t operation = ARPOP_REQUEST; operation <= ARPOP_REPLY; operation++) {
        assert_true(next_frame(fd, frame) >=
                    sizeof(struct ether_header) + sizeof(struct ether_arp));
        const struct ether_header *head = (struct ether_header *)frame;
        struct ether_arp arp;
        memcpy(&arp, head + 1, sizeof(arp));
        assert_memory_equal(head->ether_dhost, all, ETH_ALEN);
        assert_memory_equal(head->ether_shost, own, ETH_ALEN);
        assert_int_equal(ntohs(arp.ea_hdr.ar_op), operation);
        assert_int_equal(ntohs(arp.ea_hdr.ar_hrd), 1);
        assert_int_equal(ntohs(arp.ea_hdr.ar_pro), ETHERTYPE_IP);
        assert_int_equal(arp.ea_hdr.ar_hln, ETH_ALEN);
        assert_int_equal(arp.ea_hdr.ar_pln, 4);
        assert_memory_equal(arp.arp_sha, own, ETH_ALEN);
        assert_memory_equal(arp.arp_tha, operation == ARPOP_REQUEST ? none : all, ETH_ALEN);
        assert_memory_equal(arp.arp_spa, &address.address.v4, 4);
        assert_memory_equal(arp.arp_tpa, &address.address.v4, 4);
    }
}

static uint32_t add_up(const void *bytes, size_t size, uint32_t sum)
{
    const uint8_t *next = bytes;
    for (size_t i = 0; i < size; i++)
        sum += (uint32_t)next[i] << (i % 2 ? 0 : 8);
    return sum;
}

static void announces_by_neighbour_advertisement(void **state)
{
    (void)state;
    struct err err;
    struct moved_address address = parsed("fd77::5/64@v0");
    /* What follows an Ethernet header is aligned. */
    _Alignas(8) uint8_t room[2 + 2048];
    uint8_t own[ETH_ALEN], *frame = room + 2;
    hardware_address("v0", own);
    _cleanup_close_ int fd = listen_at_other_end(ETH_P_IPV6);
    assert_int_equal(address_announce(&address, &err), 0);
    const struct ip6_hdr *ip = (struct ip6_hdr *)(frame + ETH_HLEN);
    const struct nd_neighbor_advert *advert = (struct nd_neighbor_advert *)(ip + 1);
    size_t size;
    /* The kernel has things of its own to say. */
    do
        size = next_frame(fd, frame);
    while (ip->ip6_nxt != IPPROTO_ICMPV6 || advert->nd_na_type != ND_NEIGHBOR_ADVERT);
    struct in6_addr all_nodes;
    inet_pton(AF_INET6, "ff02::1", &all_nodes);
    assert_int_equal(size, ETH_HLEN + sizeof(*ip) + 32);
    assert_memory_equal(frame, "\x33\x33\0\0\0\1", ETH_ALEN);
    assert_memory_equal(frame + ETH_ALEN, own, ETH_ALEN);
    assert_int_equal(ip->ip6_hlim, 255);
    assert_int_equal(ntohs(ip->ip6_plen), 32);
    assert_memory_equal(&ip->ip6_src, &address.address.v6, 16);
    assert_memory_equal(&ip->ip6_dst, &all_nodes, 16);
    assert_int_equal(advert->nd_na_code, 0);
    assert_int_equal(advert->nd_na_flags_reserved, ND_NA_FLAG_OVERRIDE);
    assert_memory_equal(&advert->nd_na_target, &address.address.v6, 16);
    assert_memory_equal(advert + 1, "\2\1", 2);
    assert_memory_equal((const uint8_t *)(advert + 1) + 2, own, ETH_ALEN);
    uint32_t sum = add_up(&ip->ip6_src, 32, 32 + IPPROTO_ICMPV6);
    sum = add_up(advert, 32, sum);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    assert_int_equal(sum, 0xffff);
}

static void has_nobody_to_tell_on_other_links(void **state)
{
    (void)state;
    struct err err;
    struct moved_address address = parsed("127.0.0.9/8@lo"), nowhere = parsed("10.0.0.9/8@nowhere");
    assert_int_equal(address_announce(&address, &err), 0);
    assert_int_equal(address_announce(&nowhere, &err), -ENODEV);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_good_ones),
        cmocka_unit_test(refuses_odd_ones),
        cmocka_unit_test(lends_keeps_and_removes),
        cmocka_unit_test(leaving_takes_no_others_along),
        cmocka_unit_test(announces_by_arp),
        cmocka_unit_test(announces_by_neighbour_advertisement),
        cmocka_unit_test(has_nobody_to_tell_on_other_links),
    };
    if (!netns_enter() || !netns_add_pair())
        return 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
