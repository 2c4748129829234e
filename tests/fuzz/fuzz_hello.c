/* What another host says that a job needs, and is. */
#include <stdlib.h>
#include <string.h>

#include "migrate.pb-c.h"
#include "restore/machine.h"
#include "restore/need_files.h"
#include "restore/need_net.h"
#include "tests/fuzz/fuzz.h"

static char *features[] = {(char *)"avx", (char *)"fpu", (char *)"hypervisor", (char *)"sse2"};

static void describe(Freezepoint__Stream__Machine *machine)
{
    freezepoint__stream__machine__init(machine);
    machine->architecture = (char *)"x86_64";
    machine->criu = (char *)"4.1";
    machine->cpu = features;
    machine->n_cpu = sizeof(features) / sizeof(features[0]);
    machine->memory_free = machine->disk_free = 1 << 20;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    Freezepoint__Stream__Hello *hello = freezepoint__stream__hello__unpack(NULL, size, bytes);
    if (!hello)
        return 0;
    Freezepoint__Stream__Machine here;
    struct refusals refusals = REFUSALS_NONE;
    describe(&here);
    if (hello->machine)
        machine_check(hello->machine, &here, &refusals);
    if (hello->need) {
        machine_check_space(hello->need->memory, &here, "/tmp", &refusals);
        need_files_check(hello->need, &refusals);
        need_net_check(hello->need, NULL, &refusals);
    }
    refusals_close(&refusals);
    for (size_t i = 0; i < refusals.count; i++)
        if (refusals.list[i][0] == '\0')
            abort();
    refusals_release(&refusals);
    freezepoint__stream__hello__free_unpacked(hello, NULL);
    return 0;
}

static uint8_t *pack(const Freezepoint__Stream__Need *need, size_t *size)
{
    Freezepoint__Stream__Machine machine;
    Freezepoint__Stream__Hello hello = FREEZEPOINT__STREAM__HELLO__INIT;
    describe(&machine);
    hello.version = 1;
    hello.name = (char *)"server";
    hello.id = (char *)"0123456789abcdef0123456789abcdef";
    hello.machine = &machine;
    hello.need = (Freezepoint__Stream__Need *)need;
    *size = freezepoint__stream__hello__get_packed_size(&hello);
    uint8_t *bytes = malloc(*size);
    freezepoint__stream__hello__pack(&hello, bytes);
    return bytes;
}

uint8_t *fuzz_seed(size_t index, size_t *size)
{
    uint8_t any[16] = {0}, loopback[4] = {127, 0, 0, 1}, id[20] = {1, 2, 3};
    Freezepoint__Stream__NeededFile file = FREEZEPOINT__STREAM__NEEDED_FILE__INIT;
    Freezepoint__Stream__NeededFile *files[] = {&file};
    Freezepoint__Stream__NeededPort ports_[2] = {FREEZEPOINT__STREAM__NEEDED_PORT__INIT,
                                                 FREEZEPOINT__STREAM__NEEDED_PORT__INIT};
    Freezepoint__Stream__NeededPort *ports[] = {&ports_[0], &ports_[1]};
    Freezepoint__Stream__Need need = FREEZEPOINT__STREAM__NEED__INIT;
    ProtobufCBinaryData local[] = {{.len = 4, .data = loopback}};
    char *addresses[] = {(char *)"10.250.0.5/24@lo"};
    file.path = (ProtobufCBinaryData){.len = 9, .data = (uint8_t *)"/bin/true"};
    file.size = 1;
    file.mode = 0100755;
    file.build_id = (ProtobufCBinaryData){.len = sizeof(id), .data = id};
    ports_[0].address = (ProtobufCBinaryData){.len = 16, .data = any};
    ports_[0].port = 47001;
    ports_[1].address = (ProtobufCBinaryData){.len = 4, .data = any};
    ports_[1].port = 47001;
    ports_[1].udp = true;
    need.files = files;
    need.ports = ports;
    need.local = local;
    need.addresses = addresses;
    need.n_files = need.n_local = need.n_addresses = 1;
    need.n_ports = 2;
    need.memory = 1 << 20;
    return index == 0 ? pack(&need, size) : NULL;
}
