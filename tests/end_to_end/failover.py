"""PostgreSQL as a cluster: another one takes over, is behind, comes back; and what clients notice of it.

What must hold: where PostgreSQL lost nothing, no connection is closed and nothing is lost or doubled. Where
it lost something, each follower that got it is notified, no other is, and nobody misses an event in silence.
`scripts/faults clusters` prints the table, a test has the same in short; `drill.py` has the clients.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.end_to_end.drill import OUR_SESSIONS, SERVERS, SESSIONS, Drill, Outcome
from tests.replicas import Replica, missing_programs
from trio_ws.errors import CloseCode

STUCK_SECONDS = 8.0  # long enough for a server to say that it is not ready, which takes it 5 s


def killed(drill: Drill) -> Replica:
    """The primary is killed, and a synchronous standby promoted."""
    a, b = drill.pair(is_synchronous=True)
    drill.begin(a, b)
    drill.travel()
    a.kill()
    time.sleep(drill.outage)
    b.promote()
    drill.work()
    return b


def switched_over(drill: Drill) -> Replica:
    """The primary is stopped in good order, and its standby promoted."""
    a, b = drill.pair()
    drill.begin(a, b)
    drill.travel()
    a.stop()
    b.promote()
    drill.work()
    return b


def failed_back(drill: Drill) -> Replica:
    """After a kill, what was the primary is rewound, follows, and takes over again."""
    a, b = drill.pair(is_synchronous=True)
    drill.begin(a, b)
    drill.travel()
    a.kill()
    time.sleep(drill.outage)
    b.promote()
    drill.work()
    a.rewind(b)
    b.wait_for(a)
    b.stop()
    a.promote()
    drill.work()
    return a


def lost_tail(drill: Drill) -> Replica:
    """The standby is behind when the primary is killed, and promoted all the same."""
    a, b = drill.pair()
    drill.begin(a, b)
    a.wait_for(b)  # with what the quiet followers have
    b.hold_back()
    drill.work()
    drill.travel()
    a.kill()
    time.sleep(drill.outage)
    b.promote()
    drill.work()
    return b


def standby_lost(drill: Drill) -> Replica:
    """A synchronous standby is killed, and comes back: commits wait for it, and their sessions with them."""
    a, b = drill.pair(is_synchronous=True)
    drill.begin(a, b)
    with psycopg.connect(a.conninfo, autocommit=True) as database:  # before there is no place for it
        b.kill()
        drill.crowd(max(drill.outage, STUCK_SECONDS))
        # None of them ends while the standby is away: so those that there are now are the most.
        ((drill.outcome.sessions,),) = database.execute(f"SELECT count(*) {OUR_SESSIONS}".encode())
    b.start()
    drill.work()
    return a


def twins(drill: Drill) -> Replica:
    """Two standbys are promoted one after the other, to the same timeline; the second has more events."""
    a, b = drill.pair()
    c = drill.replicas.standby("c", a)
    a.demand(b)
    drill.begin(a, b, c)
    a.wait_for(c)  # with what the quiet followers have
    c.hold_back()
    drill.work()
    a.kill()
    b.promote()
    drill.work()
    c.promote()
    drill.outgrow(c, b)
    drill.travel()
    b.stop()
    drill.work()
    return c


def cloned(drill: Drill) -> Replica:
    """The data of a stopped primary is copied, and goes on elsewhere, with more events."""
    a, c = drill.replicas.primary("a"), drill.replicas.spare("c")
    drill.begin(a, c)
    a.stop()
    c.copy(a)
    a.start()
    drill.work()
    c.start()
    drill.outgrow(c, a)
    drill.travel()
    a.stop()
    drill.work()
    return c


def old_primary_back(drill: Drill) -> Replica:
    """What was the primary comes back as a primary, and is the first that servers try."""
    a, b = drill.pair()
    drill.begin(a, b)
    drill.travel()
    a.stop()
    b.promote()
    drill.work()
    a.start()
    drill.terminate_sessions(b)
    drill.work()
    a.stop()
    drill.work()
    return b


def primary_hung(drill: Drill) -> Replica:
    """The primary stands still, its standby is promoted, and then it goes on, as the first primary tried."""
    a, b = drill.pair(is_synchronous=True)
    drill.begin(a, b)
    drill.travel()
    a.hang()
    time.sleep(drill.outage)
    b.promote()
    drill.program.cut()
    drill.work()
    a.wake()
    a.set("synchronous_standby_names", "")  # as one that had been asynchronous, but by itself
    drill.terminate_sessions(b)
    drill.work()
    a.stop()
    drill.work()
    return b


def log_standby_paused(drill: Drill) -> Replica:
    """The standby that the log is read from does not show what it gets, for a while."""
    a, b = drill.pair()
    drill.begin(a, b, log_url=b.conninfo)
    b.execute("SELECT pg_wal_replay_pause()")
    drill.work()
    time.sleep(drill.outage)
    b.execute("SELECT pg_wal_replay_resume()")
    drill.work()
    return a


def log_standby_promoted(drill: Drill) -> Replica:
    """The standby that the log is read from is promoted, and has events of its own; the primary goes on."""
    a, b = drill.pair()
    drill.begin(a, b, log_url=b.conninfo)
    b.promote()
    drill.outgrow(b, a)
    drill.work()
    return a


def log_standby_away(drill: Drill) -> Replica:
    """The standby that the log is read from is killed, and comes back."""
    a, b = drill.pair()
    drill.begin(a, b, log_url=b.conninfo)
    b.kill()
    drill.work()
    time.sleep(drill.outage)
    b.start()
    a.wait_for(b)
    drill.work()
    return a


def log_standby_takes_over(drill: Drill) -> Replica:
    """The primary is killed, and the standby that the log is read from promoted."""
    a, b = drill.pair(is_synchronous=True)
    drill.begin(a, b, log_url=b.conninfo)
    drill.travel()
    a.kill()
    time.sleep(drill.outage)
    b.promote()
    drill.work()
    return b


class Scenario(NamedTuple):
    """What happens, and what is to be expected of it.

    Args:
        happens: Does it; returns the PostgreSQL that remains.
        loses: Whether PostgreSQL loses what it has acknowledged.
        is_stuck: Whether no write is done meanwhile, for long.
        has_log_url: Whether events come from a standby, if not all the time.
    """

    happens: Callable[[Drill], Replica]
    loses: bool = False
    is_stuck: bool = False
    has_log_url: bool = False

    def play(self, folder: Path, writes: int, outage: float) -> Outcome:
        """Have it happen, and return what clients noticed."""
        with Drill(folder, writes, outage) as drill:
            return drill.settle(self.happens(drill))

    def failures(self, outcome: Outcome) -> list[str]:
        """Return what does not hold."""
        found = [name for name in ("missed", "unsaid", "needless", "doubled") if getattr(outcome, name) != 0]
        if self.loses:
            found += [f"no {name}" for name in ("lost", "stale", "gaps") if getattr(outcome, name) == 0]
            found += [f"closes with {code}" for code in outcome.closes if code != CloseCode.LOG_LOST]
        else:
            found += [name for name in ("closes", "gaps", "lost") if getattr(outcome, name)]
        if self.is_stuck:
            found += ["sessions"] if outcome.sessions > SERVERS * SESSIONS else []
            found += ["ready all the time"] if not all(outcome.unready) else []
        if self.has_log_url:
            found += ["no standby read"] if not all(outcome.standby_reads) else []
        return found


SCENARIOS = {
    "kill and promote": Scenario(killed),
    "switch-over": Scenario(switched_over),
    "fail-back": Scenario(failed_back),
    "lost tail": Scenario(lost_tail, loses=True),
    "twins": Scenario(twins, loses=True),
    "clone": Scenario(cloned, loses=True),
    "synchronous standby lost": Scenario(standby_lost, is_stuck=True),
    "old primary back": Scenario(old_primary_back),
    "primary hangs": Scenario(primary_hung),
    "log standby paused": Scenario(log_standby_paused, has_log_url=True),
    "log standby promoted": Scenario(log_standby_promoted, has_log_url=True),
    "log standby away": Scenario(log_standby_away, has_log_url=True),
    "log standby takes over": Scenario(log_standby_takes_over, has_log_url=True),
}

COLUMNS = (
    *("scenario", "closes", "recovered", "gaps", "missed", "unsaid", "needless", "doubled", "lost", "of"),
    *("lost of others", "hole, s", "not ready, s", "sessions", "does not hold"),
)


def row(name: str, outcome: Outcome) -> str:
    """Return a row of the table."""
    counts = ("recovered", "gaps", "missed", "unsaid", "needless", "doubled", "lost", "acknowledged")
    return _cells(
        (
            name,
            ", ".join(f"{count} × {code}" for code, count in sorted(outcome.closes.items())) or "0",
            *(getattr(outcome, count) for count in counts),
            outcome.others_lost,
            *(" ".join(f"{one:.1f}" for one in seconds) for seconds in (outcome.hole, outcome.unready)),
            outcome.sessions or "",
            ", ".join(SCENARIOS[name].failures(outcome)),
        )
    )


def _cells(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(prog="scripts/faults clusters", description=__doc__)
    options.add_argument("--writes", type=int, default=100, help="invoices of each client between two steps")
    options.add_argument("--outage", type=float, default=3.0, help="seconds from a failure to what mends it")
    options.add_argument("names", nargs="*", help=f"of {', '.join(SCENARIOS)}; none: all")
    given = options.parse_args()
    if unknown := [name for name in given.names if name not in SCENARIOS]:
        options.error(f"there is no {', '.join(unknown)}: see --help")
    if missing := missing_programs():
        sys.exit(f"this PostgreSQL has no {', '.join(missing)}")
    rows, failed = [], False
    for name in given.names or SCENARIOS:
        scenario = SCENARIOS[name]
        with tempfile.TemporaryDirectory() as folder:
            outcome = scenario.play(Path(folder), given.writes, given.outage)
        rows.append(row(name, outcome))
        failed = failed or bool(scenario.failures(outcome))
        print(rows[-1], flush=True)  # noqa: T201
    print("", _cells(COLUMNS), _cells("---" for _ in COLUMNS), *rows, sep="\n")  # noqa: T201
    sys.exit(failed)


if __name__ == "__main__":
    main()
