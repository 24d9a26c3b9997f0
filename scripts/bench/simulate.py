"""What limits many Workers: the session server's real code, and Workers that only pretend.

    python scripts/bench/simulate.py
    python scripts/bench/simulate.py --slots 10000 --node 64 --seconds 1

A discrete-event model. Each message of a Worker is handled by the real dispatcher and the real
encoding (`scalems.radical.dispatch`, `scalems.radical.channel`), and takes the processor time that
this takes here; the server does one at a time. A Worker has so many slots, each of which runs a
call for a given time; a message is on its way for 0.2 ms. Encryption, the network's bandwidth and
the client are left out. Utilization is the work done, of what all slots could have done until the
last call ended.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import time
from collections import deque
from dataclasses import fields

from rich.console import Console
from rich.table import Table

from scalems.radical.channel import dump, load
from scalems.radical.dispatch import Dispatcher, Place
from scalems.radical.wire import call_row, light, outcome_row
from scalems.workflow.call import Call, Failure, Outcome, failed

WAY = 0.0002  # seconds
GATHERED = 0.001  # seconds that a Worker gathers outcomes


class Worker:
    """Slots that take calls one after the other."""

    def __init__(self, slots: int) -> None:
        self.free = [0.0] * slots
        heapq.heapify(self.free)

    def take(self, now: float, seconds: float, count: int) -> list[float]:
        """Take calls; return when each of them ends."""
        ends = []
        for _ in range(count):
            end = max(now, heapq.heappop(self.free)) + seconds
            heapq.heappush(self.free, end)
            ends.append(end)
        return ends


def simulate(slots: int, node: int, seconds: float, rounds: int) -> dict[str, float]:
    """Run so many rounds of calls on all slots; return figures."""
    dispatcher, workers = Dispatcher(), {}
    for number in range(slots // node):
        name = f"w{number}"
        dispatcher.open(Place(name, node))
        workers[name] = Worker(node)
    template = call_row(Call(id=0, name="f", payload=bytes(100)))
    outcome = outcome_row(failed(Call(id=0, name="f", payload=b""), Failure(type="E", message="")))
    times = [field.name for field in fields(Outcome)].index("started")  # and then `ended`
    total = slots * rounds
    for ident in range(total):
        dispatcher.queue.add((ident, *template[1:]))
    events: list[tuple[float, int, str, list[bytes]]] = []
    order = itertools.count()
    now = busy = last = 0.0
    done = messages = 0

    def send(place: Place, rows: list[tuple[object, ...]], at: float) -> None:
        nonlocal last
        ends = workers[place.name].take(at + WAY, seconds, len(rows))
        groups: deque[tuple[float, list[object]]] = deque()
        for row, end in sorted(zip(rows, ends, strict=True), key=lambda pair: pair[1]):
            told = (row[0], *outcome[1:times], end - seconds, end, *outcome[times + 2 :])
            if not groups or end > groups[-1][0] + GATHERED:
                groups.append((end, []))
            groups[-1][1].append(told)
            last = max(last, end)
        for end, told_rows in groups:
            event = (end + WAY, next(order), place.name, dump(("outcomes", told_rows)))
            heapq.heappush(events, event)

    def timed_batches(name: str | None) -> None:
        nonlocal now, busy
        started = time.process_time()
        made = [
            (place, rows, dump(("calls", light(rows)))) for place, rows in dispatcher.batches(name)
        ]
        took = time.process_time() - started
        now, busy = now + took, busy + took
        for place, rows, _ in made:
            send(place, rows, now)

    timed_batches(None)
    while events:
        at, _, name, frames = heapq.heappop(events)
        now = max(now, at)
        started = time.process_time()
        known = dispatcher.ended(name, load(frames)[1])
        dump(("outcomes", light(known)))  # to the client
        took = time.process_time() - started
        now, busy = now + took, busy + took
        done += len(known)
        messages += 1
        timed_batches(name)
    assert done == total, f"{total - done} calls have no outcome"
    return {
        "calls/s": total / last,
        "utilization": total * seconds / (slots * last),
        "server busy": busy / max(now, last),
        "us per call": busy / total * 1e6,
        "calls a message": total / messages,
    }


def main() -> None:
    """Print a table of figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 1024, 10_240])
    parser.add_argument("--node", type=int, nargs="+", default=[1, 64], help="slots of a Worker")
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.1, 1.0, 10.0])
    parser.add_argument("--rounds", type=int, default=10, help="calls for each slot")
    options = parser.parse_args()
    table = Table(title=f"{options.rounds} calls for each slot")
    for column in (
        "slots",
        "of a Worker",
        "a call takes, s",
        "utilization",
        "calls/s",
        "server busy",
        "us per call",
        "calls a message",
    ):
        table.add_column(column, justify="right")
    for slots, node, seconds in itertools.product(options.slots, options.node, options.seconds):
        found = simulate(slots, node, seconds, options.rounds)
        table.add_row(
            str(slots), str(node), f"{seconds:g}", f"{found['utilization']:.1%}",
            f"{found['calls/s']:.0f}", f"{found['server busy']:.0%}",
            f"{found['us per call']:.0f}", f"{found['calls a message']:.1f}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
