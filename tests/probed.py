"""What tests of probes look at: the pages of images, and who holds probes."""

import contextlib
import os
import signal
import struct

from harness import children_of, comm_of, links_of, wait_for

BREAKPOINT = 0xCC


def fields(message):
    """The numbers of a protobuf message of varints alone."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        found[key >> 3] = number()
    return found


def pages_of(image):
    """(address, bytes) of each page that an image holds (criu/image.c, images/pagemap.proto)."""
    for path in (image / "criu").glob("pagemap-*.img"):
        data, at, entries = path.read_bytes(), 8, []
        while at < len(data):
            size = struct.unpack_from("<I", data, at)[0]
            entries.append(fields(data[at + 4:at + 4 + size]))
            at += 4 + size
        pages = (image / "criu" / f"pages-{entries[0][1]}.img").read_bytes()
        place = 0
        for entry in entries[1:]:
            if not entry.get(4, 4) & 4:
                continue
            # compat_nr_pages, which newer CRIUs write as 0 beside nr_pages.
            for i in range(entry.get(5, entry[2])):
                yield entry[1] + i * 4096, pages[place:place + 4096]
                place += 4096
        assert place == len(pages), "the entries are not of these pages"


def probes_of(supervisor):
    """The BPF links of the process that holds a supervisor's probes."""
    return {link for pid in children_of(supervisor) if comm_of(pid).startswith("freezepoint-pro")
            for link in links_of(pid)}


def kill_group(freezepoint):
    for pid in freezepoint.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not freezepoint.group().exists(), "the keeper to clean up")
