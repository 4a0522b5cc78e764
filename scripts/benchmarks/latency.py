"""From a commit of another program to the frame at a follower, each following its own invoice."""

import json
import re
import select
import subprocess
import sys
import time

import psycopg

from scripts.benchmarks.contest import OURS, Case, Contest, Goal
from scripts.benchmarks.target import serving, text_frame

FOLLOWERS = 1000
COMMITS_PER_SECOND = 200
SECONDS = 10.0
LATE_SECONDS = 2.0  # to wait for the last events
MEDIAN, LATE, LONGEST = "commit to frame, p50", "commit to frame, p99", "commit to frame, the longest"
UNSEEN = f"not seen within {LATE_SECONDS:.0f} s"


def contest(followers, _others, *, quick):
    """Return it."""
    followers = followers or FOLLOWERS
    return Contest(
        f"latency: {followers:,} followers of an invoice each, {COMMITS_PER_SECOND} commits/s",
        {
            MEDIAN: Case("ms", "less", {OURS: Goal("≤", 0.9)}),
            LATE: Case("ms", "less", {OURS: Goal("≤", 4)}),
            LONGEST: Case("ms", "less"),
            UNSEEN: Case("events", "less", {OURS: Goal("≤", 0)}),
        },
        {OURS: lambda: _measure(followers, SECONDS / 5 if quick else SECONDS)},
    )


def _measure(followers, seconds):
    with serving() as target:
        with psycopg.connect(target.conninfo, autocommit=True) as database:
            rows = database.execute(
                "INSERT INTO invoices (account_id, amount, currency)"
                " SELECT 1, 1, 'USD' FROM generate_series(1, %s) RETURNING uid",
                (followers,),
            )
            uids = [str(uid) for (uid,) in rows]
        lines = {}
        for uid in uids:
            line = target.connect()
            request = {"action": "subscribe", "type": "invoice", "id": uid}
            line.sendall(text_frame(json.dumps(request).encode()))
            line.recv(4096)
            lines[line.fileno()] = line
        committed, seen = _write_and_read(target, uids, lines, seconds)
    late = sorted((seen[number] - at) * 1000 for number, at in enumerate(committed) if number in seen)
    return {
        MEDIAN: _at(late, 0.5),
        LATE: _at(late, 0.99),
        LONGEST: late[-1],
        UNSEEN: len(committed) - len(late),
    }


def _write_and_read(target, uids, lines, seconds):
    poll = select.epoll()
    for number in lines:
        poll.register(number, select.EPOLLIN)
    command = [sys.executable, "-m", "scripts.benchmarks.latency", target.conninfo, str(seconds)]
    seen = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        json.dump(uids, writer.stdin)
        writer.stdin.close()
        end = time.monotonic() + seconds + LATE_SECONDS
        while time.monotonic() < end:
            for number, _ in poll.poll(0.1):
                now = time.monotonic()
                for memo in re.findall(rb'"memo":"n(\d+)"', lines[number].recv(65536)):
                    seen.setdefault(int(memo), now)
        return json.load(writer.stdout), seen


def _write(conninfo, seconds):
    """In a process of its own: commit steadily, and print when each commit returned."""
    uids = json.load(sys.stdin)
    committed = []
    with psycopg.connect(conninfo, autocommit=True, prepare_threshold=0) as database:
        begin = time.monotonic()
        for number in range(int(seconds * COMMITS_PER_SECOND)):
            time.sleep(max(0, begin + number / COMMITS_PER_SECOND - time.monotonic()))
            uid = uids[number * 7 % len(uids)]
            database.execute("UPDATE invoices SET memo = %s WHERE uid = %s", (f"n{number}", uid))
            committed.append(time.monotonic())  # one clock for all processes of a machine
    json.dump(committed, sys.stdout)


def _at(ordered, share):
    return ordered[int(share * (len(ordered) - 1))]


if __name__ == "__main__":
    _write(sys.argv[1], float(sys.argv[2]))
