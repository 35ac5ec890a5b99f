"""Memory over time: `alive`. Knows which operation reads which value, and their sizes.

A value is what an operation gave; value 0 is the network's input. What an operation gives has
memory of its own, or lies in that of the first value it reads: always where it is a view, and
where it writes in place if no later operation reads what lay there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Lies = Literal["own", "in place", "view"]


class Event(NamedTuple):
    """One operation: the values it reads and gives, and those that no later one reads."""

    reads: tuple[int, ...]
    gives: tuple[int, ...]
    lies: Lies = "own"
    last: tuple[int, ...] = ()


def with_last(events: Sequence[Event], result: int) -> list[Event]:
    """The events, each with the values it is the last to read; `result` is read in the end. What
    nobody reads is gone after its own event."""
    last = {value: i for i, event in enumerate(events) for value in event.gives}
    last |= {value: i for i, event in enumerate(events) for value in event.reads}
    last[result] = len(events)
    found: list[list[int]] = [[] for _ in range(len(events) + 1)]
    for value, at in last.items():
        found[at].append(value)
    return [event._replace(last=tuple(found[i])) for i, event in enumerate(events)]


def alive(events: Sequence[Event], sizes: Sequence[int]) -> list[int]:
    """At each event the size of all that is alive: what this event or a later one reads, and what
    it gives. `sizes` are those of the values, in any unit; so is what is returned."""
    owner = {0: 0}  # value -> the value in whose memory it lies
    users = {0: {0}}  # memory -> the values alive in it
    total = sizes[0]
    found = []
    for event in events:
        shared = None
        if event.reads and event.lies != "own":
            shared = owner[event.reads[0]]
            if event.lies == "in place" and not users[shared] <= set(event.last):
                shared = None
        for value in event.gives:
            memory = value if shared is None else shared
            owner[value] = memory
            if memory not in users:
                users[memory] = set()
                total += sizes[memory]
            users[memory].add(value)
        found.append(total)
        for value in event.last:
            memory = owner[value]
            users[memory].discard(value)
            if not users[memory]:
                total -= sizes[memory]
                del users[memory]
    return found
