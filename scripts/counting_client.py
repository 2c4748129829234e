#!/usr/bin/python3
"""Counts at a server, at full speed, over one connection that is opened once.

    counting_client.py redis|http ADDRESS PORT FILE

Every answer is the number of requests that the server has seen (of one of several keys,
at redis); one that is lost or doubled makes the next number wrong, which ends this with
status 1 and one line.  FILE gets two native 64-bit words for each answer: when the
request was sent and when the answer was there, on the monotonic clock, in ns.  SIGTERM
ends it once the answer that is awaited is there.
"""

import array
import signal
import socket
import sys
import time

KEYS = 16
FLUSH_NS = 50_000_000


class Redis:
    def __init__(self):
        self.asked = 0

    def request(self):
        self.asked += 1
        return b"INCR counter%d\r\n" % (self.asked % KEYS)

    def is_whole(self, answer):
        return answer.endswith(b"\r\n")

    def number(self, answer):
        return int(answer[1:])

    def expected(self):
        return (self.asked - 1) // KEYS + 1


class Http:
    """A server that answers with how many requests it has seen."""

    def __init__(self):
        self.asked = 0

    def request(self):
        self.asked += 1
        return b"GET / HTTP/1.1\r\nHost: counter\r\n\r\n"

    def is_whole(self, answer):
        head, found, body = answer.partition(b"\r\n\r\n")
        at = head.lower().find(b"content-length:")
        return found and at >= 0 and len(body) >= int(head[at + 15:].split(b"\r\n")[0])

    def number(self, answer):
        return int(answer.partition(b"\r\n\r\n")[2])

    def expected(self):
        return self.asked


def receive(connection, protocol):
    answer = b""
    while not protocol.is_whole(answer):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("the server closed the connection")
        answer += piece
    return answer


def count(connection, protocol, out, ended):
    times = array.array("Q")
    flushed = time.monotonic_ns()
    try:
        while not ended:
            request = protocol.request()
            sent = time.monotonic_ns()
            connection.sendall(request)
            answer = receive(connection, protocol)
            now = time.monotonic_ns()
            number = protocol.number(answer)
            if number != protocol.expected():
                return (f"request {protocol.asked}: the answer is {number}, "
                        f"it should be {protocol.expected()}")
            times.extend((sent, now))
            if now - flushed > FLUSH_NS:
                times.tofile(out)
                out.flush()
                times = array.array("Q")
                flushed = now
    except (OSError, ValueError) as error:
        return f"request {protocol.asked}: {error}"
    finally:
        times.tofile(out)
    return None


def main():
    kind, address, port, path = sys.argv[1:]
    protocol = {"redis": Redis, "http": Http}[kind]()
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    with socket.create_connection((address, int(port)), 30) as connection, open(path, "wb") as out:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrong = count(connection, protocol, out, ended)
    if wrong:
        print(wrong, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
