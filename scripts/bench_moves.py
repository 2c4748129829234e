"""What a client sees of moves by freezepoint and by stock criu, taking turns."""

import contextlib

from hosts import Network
from moves import (Client, MovingNode, MovingPython, MovingRedis, Ours, Stock, fill_redis,
                   watched_move)

REDIS_KEYS = 52000  # of 1 kB: 64 MB in its memory
LINK = "1gbit", "1ms"
HOSTS = ("one", "two", "client")


class Side:
    """One way of moving, on three hosts of its own, with its client."""

    def __init__(self, way, program_class, directory, criu, rate, delay):
        self.directory = directory / way.__name__.lower()
        self.directory.mkdir(parents=True)
        self.network = Network(HOSTS, delay, rate)
        self.mover = way(self.network, HOSTS[:2], self.directory / "files",
                         program_class(self.directory))
        self.client = Client(self.network["client"], program_class.kind, program_class.port,
                             self.directory)
        self.criu = criu

    def __enter__(self):
        self.network.__enter__()
        try:
            self.mover.start(f"bench-move-{self.network.prefix}", self.criu)
            if self.mover.program.kind == "redis":
                fill_redis(self.network["client"], REDIS_KEYS)
            self.client.start()
            self.client.await_answer(0)
            self.client.pause()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.client.kill()
        try:
            self.mover.end()
        finally:
            self.network.remove()

    def move(self):
        self.client.go_on()
        try:
            return watched_move(self.mover, self.client)
        finally:
            self.client.pause()

    def end(self):
        self.client.go_on()
        return self.client.end()


def measure_one(bench, program_class, label, rate=None, delay=None):
    directory = bench.directory / f"moves-{program_class.name}-{rate}"
    moves = {Ours: [], Stock: []}
    with contextlib.ExitStack() as stack:
        sides = {way: stack.enter_context(Side(way, program_class, directory, bench.criu, rate, delay))
                 for way in moves}
        for lack in sides[Ours].network.missing:
            print(f"{label}: without {lack}, which this kernel does not have")
        for way in (Ours, Stock):  # what a first time costs is not measured
            sides[way].move()
        for turn in range(bench.times):
            for way in (Ours, Stock) if turn % 2 == 0 else (Stock, Ours):
                moves[way].append(sides[way].move())
        for side in sides.values():
            side.end()  # every answer was right
    column = lambda way, key: [getattr(move, key) for move in moves[way]]  # noqa: E731
    for what, unit, key in (("client's longest gap, a move", "ms", "gap"),
                            ("frozen, a move", "ms", "frozen"), ("total, a move", "ms", "total")):
        bench.add(label, what, unit, column(Ours, key), column(Stock, key),
                  ("<= stock", lambda mine, other: mine <= other) if key == "gap" else None)
    bench.add(label, "sent, a move", "MB", [size / 1e6 for size in column(Ours, "size")],
              [size / 1e6 for size in column(Stock, "size")])


def measure_moves(bench):
    for program_class in (MovingRedis, MovingNode, MovingPython):
        measure_one(bench, program_class, program_class.name)
    measure_one(bench, MovingRedis, "redis, 1 Gbit/s", *LINK)
