"""What an event costs a server that nobody follows it on: it still has to be read, and kept for who resumes.

Of many servers on one PostgreSQL each reads all events, and most of them have no follower there. Events are
committed by another program, a few or many at a time: the fewer come with a read, the more of it each bears.
What the server does while nothing is written counts for none of them.

Where it goes: an event takes 1.5 µs where nothing else does, 0.6 to decode it and 0.9 to note it and look for
followers. All else is the read's, however many it brings. It takes four turns of the event loop, some 0.5 ms
(NOTIFY, the numbering, its answer, our own NOTIFY), none of which is most of it. Of more than 7 KB of events
the answer has none, and a thread reads them: some 0.7 ms more.
"""

import time

import psycopg

from scripts.benchmarks.contest import OURS, Case, Contest, Goal
from scripts.benchmarks.target import serving

LOADS = {1: 200, 10: 100, 100: 20, 500: 8}  # events of a commit, and commits/s
SECONDS = 5.0  # for each, and as long idle
WARM_SECONDS = 1.0
INSERT = "INSERT INTO invoices (account_id, amount, currency) SELECT 1, 1, 'USD' FROM generate_series(1, %s)"
GOAL = {OURS: Goal("≤", 6)}


def contest(most, _others, *, quick):
    """Return it; `most` bounds how many events a commit has."""
    loads = {events: rate for events, rate in LOADS.items() if events <= (most or max(LOADS))}
    seconds = SECONDS / 5 if quick else SECONDS
    return Contest(
        "unfollowed: an event that nobody here follows",
        {
            _case(events): Case("µs of CPU an event", "less", GOAL if events >= 100 else {})
            for events in loads
        },
        {OURS: lambda: _measure(loads, seconds)},
    )


def _case(events):
    return f"{events} a commit, {LOADS[events]} commits/s"


def _measure(loads, seconds):
    figures = {}
    with serving() as target, psycopg.connect(target.conninfo, autocommit=True) as database:
        for events, rate in loads.items():
            _write(database, events, rate, WARM_SECONDS)
            idle = _cpu_seconds(target, lambda: time.sleep(seconds)) / seconds
            spent = _cpu_seconds(target, lambda: _write(database, events, rate, seconds))  # noqa: B023
            figures[_case(events)] = (spent - idle * seconds) / (events * int(rate * seconds)) * 1e6
    return figures


def _cpu_seconds(target, act):
    """Return how much of its CPU a server took meanwhile, and for what was left to do."""
    before = target.cpu_seconds()
    act()
    time.sleep(WARM_SECONDS / 5)
    return target.cpu_seconds() - before


def _write(database, events, rate, seconds):
    begin = time.monotonic()
    for number in range(int(rate * seconds)):
        time.sleep(max(0, begin + number / rate - time.monotonic()))
        database.execute(INSERT, (events,))
