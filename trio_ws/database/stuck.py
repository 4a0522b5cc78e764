"""Sessions that go on in PostgreSQL after we cut them.

A commit waits there for a lost synchronous standby without any limit of time, and PostgreSQL does not notice
that nobody waits for its answer.
"""

from collections.abc import Sequence

from trio_ws.database.lanes import Cut
from trio_ws.database.sessions import Connection, Primary

# A process id may be used again: one that began after the cut is not meant. Behind a pooler it is not known.
# There, any session of our role counts that has been waiting for a standby since before the cut.
# What waits for a standby is not cancelled: PostgreSQL would show a commit to all that no standby has.
# An idle one waits for us, and does so for hours where the network has lost that we left.
_FIND = (
    "SELECT number, CASE WHEN wait_event IS NOT DISTINCT FROM 'SyncRep' THEN NULL"
    " WHEN state = 'active' THEN pg_cancel_backend(a.pid)"
    " WHEN starts_with(state, 'idle') THEN pg_terminate_backend(a.pid) END"
    " FROM unnest(%s::int[], %s::float8[]) WITH ORDINALITY AS cut (pid, age, number)"
    " CROSS JOIN LATERAL (SELECT clock_timestamp() - make_interval(secs => age) AS at) since"
    " JOIN pg_stat_activity a ON CASE cut.pid WHEN 0"
    " THEN wait_event = 'SyncRep' AND query_start < since.at"
    " ELSE a.pid = cut.pid AND backend_start < since.at END"
    " WHERE usename = session_user"  # else, on a host that we take for another one, it may be anybody's
)


def find_stuck(connection: Connection, primary: Primary | None, cuts: Sequence[Cut], now: float) -> set[Cut]:
    """Return the sessions that go on, and have those end that do not wait for a standby.

    It writes nothing, so it waits for no standby itself.

    Args:
        connection: To today's primary.
        primary: Which one that is. What goes on at one that was replaced does not matter any more.
        cuts: The sessions that were cut.
        now: The time, on the monotonic clock.
    """
    here = [cut for cut in cuts if cut.primary == primary]
    rows = connection.execute(_FIND, ([cut.pid for cut in here], [now - cut.at for cut in here]))
    return {here[number - 1] for number, _ in rows}
