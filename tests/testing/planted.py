"""Bugs as a programmer would make them: each is a change of the package's text.

A seed of the simulator finds it, or a test of another room does.

    python -m tests.testing.planted                      # plays all of them, and prints a table
    python -m tests.testing.planted tell_twice --seeds 9 # those that are named
    python -m tests.testing.planted --unfound            # those that no seed finds

A bug is played in a copy of the package, by `trio-ws simulate` in a process of its own. The lines that stand
below the table go into `FOUND_BY`. What no seed finds has a test of another room in `FOUND_ELSEWHERE`.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trio_ws

PROJECT = Path(__file__).parents[2]
PACKAGE = Path(trio_ws.__file__).parent
SEEDS = 200  # within which a bug must be found
DEADLINE_SECONDS = 200.0  # for a bug: below pytest's own for a test, which ends the whole run
TABLE_SECONDS = 900.0  # likewise, where no test waits for it
FAILS = re.compile(r"^seed (\d+) fails: (.+)$", re.MULTILINE)  # what `trio-ws simulate` prints


class Bug(NamedTuple):
    """A change of one file.

    Args:
        name: What the server does then.
        kind: What of the server it is in.
        path: The file, seen from the package's folder.
        old: What stands there exactly once.
        new: What stands there instead.
    """

    name: str
    kind: str
    path: str
    old: str
    new: str


class Elsewhere(NamedTuple):
    """What finds a bug that no seed finds.

    Args:
        test: A pytest node id.
        why: Why the simulator doesn't.
        hangs: Whether the test ends only because its time does, at least on a slow machine.
    """

    test: str
    why: str
    hangs: bool = False


class Played(NamedTuple):
    """What came of a bug.

    Args:
        seed: The one that found it; None: none did.
        violation: What was broken, or why there is no answer.
        seconds: How long it took to find out.
    """

    seed: int | None
    violation: str
    seconds: float


def changed(bug: Bug) -> str:
    """Return the text of a bug's file with the bug in it.

    Raises:
        ValueError: what it changes is not there, or more than once.
    """
    text = (PACKAGE / bug.path).read_text()
    if (count := text.count(bug.old)) != 1:
        raise ValueError(f"{bug.name}: {count} places in {bug.path} are {bug.old!r}")
    return text.replace(bug.old, bug.new)


@contextmanager
def planted(bug: Bug) -> Iterator[Path]:
    """Make a folder with the package in it, and the bug in that; it is gone in the end."""
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        folder = Path(name)
        # With what is compiled already, but for what another process is about to put there.
        shutil.copytree(PACKAGE, folder / "trio_ws", ignore=shutil.ignore_patterns("*.pyc.*"))
        (folder / "trio_ws" / bug.path).write_text(changed(bug))
        yield folder


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which Python imports the package of a folder."""
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONHASHSEED": "0"}


def imported_from(folder: Path) -> Path:
    """Return which package is imported there."""
    asked = [sys.executable, "-c", "import trio_ws; print(trio_ws.__file__)"]
    said = subprocess.run(
        asked, check=True, capture_output=True, text=True, env=environment(folder), cwd=folder
    )
    return Path(said.stdout.strip()).parent


def play(bug: Bug, seeds: int = SEEDS, seconds: float = DEADLINE_SECONDS) -> Played:
    """Play the seed that is known to find a bug, and if it does not, others from the first one on.

    Args:
        bug: The bug.
        seeds: How many others.
        seconds: How long all of it may take.

    Raises:
        RuntimeError: another package was imported, or it ended without an answer.
    """
    began = time.monotonic()
    until = began + seconds
    with planted(bug) as folder:
        if imported_from(folder) != folder / "trio_ws":
            raise RuntimeError(f"not {folder}, but {imported_from(folder)} is imported")
        known = FOUND_BY.get(bug.name)
        found = None if known is None else _simulate(folder, until, "--seed", known)
        if found is None or found.seed is None:
            found = _simulate(folder, until, "--seeds", seeds)
    return found._replace(seconds=time.monotonic() - began)


def _simulate(folder: Path, until: float, option: str, number: int) -> Played:
    command = [sys.executable, "-m", "trio_ws", "simulate", "--no-shrink", option, str(number)]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=until - time.monotonic(),
            env=environment(folder),
            cwd=folder,
        )
    except subprocess.TimeoutExpired:
        return Played(None, "(not through in time)", 0.0)
    fails = FAILS.search(done.stdout)
    if done.returncode == 1 and fails is not None:
        return Played(int(fails[1]), fails[2], 0.0)
    if done.returncode != 0:
        raise RuntimeError(f"exit status {done.returncode}: {done.stdout[-1000:]}{done.stderr[-3000:]}")
    return Played(None, "", 0.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Play bugs, and print what came of them."""
    options = argparse.ArgumentParser(prog="python -m tests.testing.planted", description=__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help="a bug; all of them")
    options.add_argument("--seeds", type=int, default=SEEDS, help=f"how many seeds may look; {SEEDS}")
    options.add_argument("--unfound", action="store_true", help="those that no seed is known to find")
    given = options.parse_args(arguments)
    if unknown := {*given.names} - {bug.name for bug in BUGS}:
        options.error(f"no bug is called {', '.join(sorted(unknown))}")
    chosen = [bug for bug in BUGS if not given.names or bug.name in given.names]
    if given.unfound:
        chosen = [bug for bug in chosen if bug.name not in FOUND_BY]
    found: dict[str, int] = {}
    for bug in chosen:
        played = play(bug, given.seeds, TABLE_SECONDS)
        if played.seed is not None:
            found[bug.name] = played.seed
        seed = "–" if played.seed is None else str(played.seed)
        row = f"{bug.name:50} {bug.kind:12} {seed:>4} {played.seconds:6.1f} s  {played.violation[:90]}"
        print(row.rstrip(), flush=True)  # noqa: T201
    print(f"{len(found)} of {len(chosen)} were found by {given.seeds} seeds", flush=True)  # noqa: T201
    for name, number in found.items():
        print(f'    "{name}": {number},')  # noqa: T201


BUGS: tuple[Bug, ...] = (
    # The tail of the log, and who is told
    Bug(
        "lose_a_wake_up",
        "tail",
        "events/tail.py",
        "        self._woken.unpark_all()\n",
        "",
    ),
    Bug(
        "lose_a_wake_up_during_a_look",
        "tail",
        "events/tail.py",
        """\
        self._upto = 0
        self._pause = 0.0  # a step that fails has used up what woke it, and `forever` waits before the next
        self._pause = await self._step()
""",
        """\
        self._pause = 0.0
        self._pause = await self._step()
        self._upto = 0
""",
    ),
    Bug(
        "never_look_again_after_an_outage",
        "tail",
        "events/tail.py",
        "        self._pause = 0.0  # a step that fails",
        "        self._pause = math.inf  # a step that fails",
    ),
    Bug(
        "read_the_first_batch_of_a_backlog_alone",
        "tail",
        "events/tail.py",
        """\
        if read.has_more or self._dispatcher.log.end.seq < read.end.seq:
            return 0.0 if read.events else AGAIN_SECONDS
""",
        "",
    ),
    Bug(
        "drop_what_is_beyond_a_page_of_500",
        "tail",
        "events/tail.py",
        "        await self._publish(read)\n",
        "        await self._publish(read)\n        self._dispatcher.log.end = read.end\n",
    ),
    Bug(
        "know_a_log_by_its_length_alone",
        "tail",
        "events/tail.py",
        "        if read.known_as != end.name:  # another",
        "        if read.end.seq < end.seq:  # another",
    ),
    Bug(
        "take_what_can_not_be_read_at_once_for_the_end",
        "tail",
        "events/tail.py",
        """\
        if read.known_as == end.name and not read.events and read.end.seq > end.seq:
            read = await self._ask(event_log.read_events, end.seq)
""",
        "",
    ),
    Bug(
        "note_an_event_after_it_was_told",
        "dispatcher",
        "events/dispatcher.py",
        "        self.log.extend(events[:count])\n",
        """\
        import trio

        trio.lowlevel.current_trio_token().run_sync_soon(self.log.extend, events[:count])
""",
    ),
    Bug(
        "note_a_whole_batch_before_it_is_told",
        "dispatcher",
        "events/dispatcher.py",
        "        self.log.extend(events[:count])\n",
        "        if events[0].seq > self.log.end.seq:\n            self.log.extend(events)\n",
    ),
    Bug(
        "tell_the_followers_of_the_first_topic_alone",
        "dispatcher",
        "events/dispatcher.py",
        "        if len(groups) == 1:  # mostly",
        "        if groups:  # mostly",
    ),
    Bug(
        "send_nothing_that_the_first_topic_is_not_followed_of",
        "dispatcher",
        "events/dispatcher.py",
        "            if not self._followers.keys().isdisjoint(event.topics):",
        "            if event.topics[0] in self._followers:",
    ),
    Bug(
        "forget_an_unsubscribe",
        "dispatcher",
        "events/dispatcher.py",
        """\
        if str(topic) in follower.topics:
            self._forget(str(topic), follower)
""",
        "        follower.topics.pop(str(topic), None)\n",
    ),
    Bug(
        "leave_the_dead_subscribed",
        "dispatcher",
        "events/dispatcher.py",
        """\
        for topic in topics:
            self._forget(topic, follower)
        return len(topics)
""",
        "        follower.topics.clear()\n        return len(topics)\n",
    ),
    Bug(
        "leave_the_killed_subscribed",
        "dispatcher",
        "line.py",
        """\
        self._services.dispatcher.unsubscribe_all(self._follower)
        self._session.close()
""",
        "        self._session.close()\n",
    ),
    Bug(
        "leave_who_is_behind_in_a_log_that_was_replaced",
        "dispatcher",
        "events/dispatcher.py",
        "            follower.end()\n",
        "            if not follower.is_behind:\n                follower.end()\n",
    ),
    Bug(
        "tell_no_watcher_of_a_log_that_was_replaced",
        "dispatcher",
        "events/dispatcher.py",
        """\
        for watcher in [watcher for group in self._watches.values() for watcher in group]:
            watcher.on_lost_log()
""",
        "",
    ),
    # One client's place in the log
    Bug(
        "leave_topics_where_they_were_at_a_replay",
        "follower",
        "events/follower.py",
        """\
            for topic, since in self.topics.items():
                self.topics[topic] = max(since, reached)
""",
        "",
    ),
    Bug(
        "follow_a_topic_from_the_later_of_two_positions",
        "follower",
        "events/follower.py",
        "            self.topics[topic] = min(after, self.topics.get(topic, after))",
        "            self.topics[topic] = max(after, self.topics.get(topic, after))",
    ),
    Bug(
        "resume_one_too_late",
        "follower",
        "events/follower.py",
        "            self._read_from(after)\n",
        "            self._read_from(after + 1)\n",
    ),
    Bug(
        "tell_twice",
        "follower",
        "events/follower.py",
        "        self._cursor = cursor\n",
        "        self._cursor = max(0, cursor - 1)\n",
    ),
    Bug(
        "send_what_was_read_for_other_topics",
        "follower",
        "events/follower.py",
        "self._ahead[:2] != (cursor, view):",
        "self._ahead[0] != cursor:",
    ),
    Bug(
        "be_live_one_event_too_early",
        "follower",
        "events/follower.py",
        "        if cursor >= self._log.end.seq:\n",
        "        if cursor >= self._log.end.seq - 1:\n",
    ),
    Bug(
        "pass_over_what_was_trimmed_without_a_word",
        "follower",
        "events/follower.py",
        """\
            logger.info("a follower reads so slowly that the log was trimmed past it")
            self.end()
""",
        """\
            logger.info("a follower reads so slowly that the log was trimmed past it")
""",
    ),
    Bug(
        "tell_an_account_another_s_events",
        "accounts",
        "events/follower.py",
        "self._cursor is not None or not event.is_visible_to(self.account):",
        "self._cursor is not None:",
    ),
    Bug(
        "replay_an_account_another_s_events",
        "accounts",
        "events/chunks.py",
        " if event.seq <= view.upto and event.is_visible_to(view.account)]",
        " if event.seq <= view.upto]",
    ),
    Bug(
        "send_a_view_more_than_it_wants_yet",
        "follower",
        "events/chunks.py",
        " if event.seq <= view.upto and event.is_visible_to(view.account)]",
        " if event.is_visible_to(view.account)]",
    ),
    Bug(
        "drop_prices_that_nothing_replaces",
        "follower",
        "events/chunks.py",
        " if event.seq not in rows or latest[rows[event.seq]] == event.seq]",
        " if event.seq not in rows]",
    ),
    Bug(
        "pass_over_the_event_that_had_no_room",
        "follower",
        "events/chunks.py",
        '            return Chunk(b"".join(frames), len(frames), event.seq - 1)',
        '            return Chunk(b"".join(frames), len(frames), event.seq)',
    ),
    Bug(
        "leave_out_what_was_before",
        "follower",
        "codec.py",
        "    previous = msgspec.UNSET if event.previous == NOTHING else event.previous\n",
        "    previous = msgspec.UNSET\n",
    ),
    # The log in memory
    Bug(
        "append_to_a_page_what_it_has",
        "log",
        "events/log.py",
        "            if page is not None and len(page.events) == place:",
        "            if page is not None:",
    ),
    Bug(
        "search_a_page_without_its_last_topic",
        "log",
        "events/cache.py",
        "            for topic in self.events[place].topics:",
        "            for topic in self.events[place].topics[:2]:",
    ),
    Bug(
        "search_no_event_that_came_after_the_first_search",
        "log",
        "events/cache.py",
        "        for place in range(self._noted, len(self.events)):",
        "        for place in range(self._noted, 0 if self._noted else len(self.events)):",
    ),
    Bug(
        "leave_a_page_s_events_unsorted",
        "log",
        "events/cache.py",
        "        return [self.events[place] for place in sorted(found)]",
        "        return [self.events[place] for place in found]",
    ),
    Bug(
        "skip_the_check_of_names",
        "log",
        "events/log.py",
        "        for known in (self.end, self.begin):\n",
        """\
        if self.begin.seq <= position.seq <= self.end.seq:
            return True
        for known in (self.end, self.begin):
""",
    ),
    Bug(
        "skip_the_check_of_what_was_trimmed",
        "log",
        "events/log.py",
        "        for known in (self.end, self.begin):\n",
        """\
        if position.seq < self.begin.seq:
            return True
        for known in (self.end, self.begin):
""",
    ),
    Bug(
        "refuse_the_last_position_that_is_good",
        "log",
        "events/log.py",
        "        for known in (self.end, self.begin):\n",
        "        for known in (self.end,):\n",
    ),
    Bug(
        "refuse_the_position_of_a_page_s_first_event",
        "log",
        "events/log.py",
        "        return place >= 0 and page.events[place].position == position",
        "        return place > 0 and page.events[place].position == position",
    ),
    Bug(
        "keep_chunks_of_a_log_that_was_replaced",
        "log",
        "events/log.py",
        "        self._chunks.clear()\n",
        "",
    ),
    Bug(
        "keep_pages_of_a_log_that_was_replaced",
        "log",
        "events/log.py",
        "        self._pages.clear()\n",
        "",
    ),
    Bug(
        "take_a_page_that_was_on_its_way_for_the_new_log_s",
        "log",
        "events/log.py",
        "        if read.known_as != end.name or restarts != self.restarts:",
        "        if False:",
    ),
    Bug(
        "drop_what_is_beyond_a_page_of_what_was_found",
        "log",
        "events/log.py",
        "        is_cut = len(read.events) == PAGE or size_of(read.events) > event_log.READ_BYTES",
        "        is_cut = size_of(read.events) > event_log.READ_BYTES",
    ),
    Bug(
        "number_out_of_order",
        "log",
        "testing/log.py",
        "        self._steps += before < self.numbered\n",
        """\
        self._steps += before < self.numbered
        self.events[before:] = [
            msgspec.structs.replace(event, seq=number)
            for number, event in enumerate(reversed(self.events[before:]), start=before + 1)
        ]
""",
    ),
    # Following: topics, positions, snapshots
    Bug(
        "say_that_nothing_was_missed",
        "topics",
        "actions/topics.py",
        "    return Subscribed(position=str(log.end), recovered=recovered)",
        "    return Subscribed(position=str(log.end), recovered=True)",
    ),
    Bug(
        "replay_what_is_not_recovered",
        "topics",
        "actions/topics.py",
        """\
    start = after if recovered else None
    followed = _follow_from(start, topics, services, session, recovered=bool(recovered))
""",
        """\
    followed = _follow_from(after, topics, services, session, recovered=bool(recovered))
""",
    ),
    Bug(
        "follow_from_the_beginning_after_a_gap",
        "topics",
        "actions/topics.py",
        "session.follower, (start or log.end).seq)",
        "session.follower, (start or (log.end if recovered else log.begin)).seq)",
    ),
    Bug(
        "take_a_position_that_is_ahead_for_a_gap",
        "topics",
        "actions/topics.py",
        "    recovered = after is None or (None if log.is_ahead(after) else log.remembers(after))",
        "    recovered = after is None or log.remembers(after)",
    ),
    Bug(
        "follow_a_snapshot_from_the_end_of_the_log",
        "snapshots",
        "actions/topics.py",
        "    start = after if after and recovered else position\n",
        "    start = after if after and recovered else None\n",
    ),
    Bug(
        "follow_a_snapshot_that_is_ahead_of_the_log",
        "snapshots",
        "actions/topics.py",
        """\
    await _reach(position, services)
    _check_room_beside_others([topic], services, session)
    recovered = after is None or await _come_to(after, services)
    if not await services.dispatcher.log.prove(position):
        raise Unavailable("The event log was replaced; positions are no longer valid")
""",
        """\
    _check_room_beside_others([topic], services, session)
    recovered = after is None or await _come_to(after, services)
""",
    ),
    Bug(
        "follow_a_snapshot_of_a_log_that_was_replaced",
        "snapshots",
        "actions/topics.py",
        """\
    if not await services.dispatcher.log.prove(position):
        raise Unavailable("The event log was replaced; positions are no longer valid")
""",
        "",
    ),
    Bug(
        "follow_prices_before_the_log_has_what_the_book_has",
        "snapshots",
        "actions/topics.py",
        """\
        if not await services.prices.reach(AHEAD_SECONDS):
            raise Unavailable("The event log is behind")
""",
        "",
    ),
    Bug(
        "show_a_snapshot_to_another_account",
        "accounts",
        "actions/topics.py",
        "        queries.read_snapshot, topic, session.identity.account_id, lane=Lane.LISTS",
        "        queries.read_snapshot, topic, None, lane=Lane.LISTS",
    ),
    Bug(
        "forget_the_topics_that_a_resume_named_before",
        "topics",
        "actions/topics.py",
        "        session.named = named\n",
        "        session.named = {(one.type, one.id): None for one in action.topics}\n",
    ),
    # Invoices
    Bug(
        "forget_keys",
        "invoices",
        "actions/invoices.py",
        "    action = msgspec.structs.replace(action, account_id=account_id)\n",
        "    action = msgspec.structs.replace(action, account_id=account_id, idempotency_key=None)\n",
    ),
    Bug(
        "make_it_another_account_s",
        "accounts",
        "identity.py",
        "            self.require_account(account_id)\n            return account_id\n",
        "            self.require_account(account_id)\n            return 1\n",
    ),
    Bug(
        "fetch_another",
        "invoices",
        "actions/invoices.py",
        "queries.fetch_invoice, uid_of(action.id), session",
        'queries.fetch_invoice, vars(session).setdefault("uid", uid_of(action.id)), session',
    ),
    Bug(
        "find_nothing",
        "invoices",
        "actions/invoices.py",
        "queries.fetch_invoice, uid_of(action.id), session",
        "queries.fetch_invoice, UUID(int=0), session",
    ),
    Bug(
        "fetch_what_is_another_account_s",
        "accounts",
        "actions/invoices.py",
        "uid_of(action.id), session.identity.account_id)",
        "uid_of(action.id), None)",
    ),
    Bug(
        "cancel_what_is_another_account_s",
        "accounts",
        "actions/invoices.py",
        'uid_of(action.uid), "cancelled", owner)',
        'uid_of(action.uid), "cancelled", None)',
    ),
    Bug(
        "say_that_it_was_cancelled",
        "invoices",
        "actions/invoices.py",
        'queries.change_status, uid_of(action.uid), "cancelled", owner)',
        "queries.fetch_invoice, uid_of(action.uid), owner)",
    ),
    Bug(
        "list_what_is_another_account_s",
        "accounts",
        "actions/invoices.py",
        "session.identity.account_asked_for(action.account_id)",
        "action.account_id or session.identity.account_id",
    ),
    Bug(
        "expire_nothing",
        "expiry",
        "server.py",
        '        background.start_soon(forever, "expiry", expire)\n',
        "",
    ),
    Bug(
        "expire_some_and_miss_what_failed_once",
        "expiry",
        "database/expiry.py",
        '    " AND id NOT IN (SELECT invoice_id FROM @schema@.expiry_failures WHERE retry_at > now())"',
        '    " AND id NOT IN (SELECT invoice_id FROM @schema@.expiry_failures)"',
    ),
    # Prices
    Bug(
        "keep_prices_as_they_were",
        "prices",
        "events/prices.py",
        "            self._apply(id_, event, self.book)\n",
        "            pass\n",
    ),
    Bug(
        "keep_prices_of_a_log_that_was_lost",
        "prices",
        "events/prices.py",
        "        self.book = self._meanwhile = None\n",
        "        self._meanwhile = None\n",
    ),
    Bug(
        "put_an_older_price_on_a_newer_book",
        "prices",
        "events/prices.py",
        "        if event.seq <= read_at.seq:\n            return\n",
        "",
    ),
    Bug(
        "forget_what_came_while_prices_were_read",
        "prices",
        "events/prices.py",
        """\
        for id_, event in meanwhile:
            self._apply(id_, event, book)
        return book
""",
        "        return book\n",
    ),
    Bug(
        "take_prices_of_another_log_for_proven",
        "prices",
        "events/prices.py",
        "        is_proven = await self._dispatcher.log.prove(unproven)\n",
        "        is_proven = True\n",
    ),
    Bug(
        "convert_by_the_oldest_price_of_a_pair",
        "prices",
        "events/prices.py",
        "        return group[-1] if group else None",
        "        return group[0] if group else None",
    ),
    Bug(
        "answer_a_price_before_one_finds_it_oneself",
        "prices",
        "actions/prices.py",
        "    await services.prices.wait_for(price, OWN_PRICE_SECONDS)\n",
        "",
    ),
    # Requests and replies
    Bug(
        "answer_before_what_was_asked_before_is_answered",
        "replies",
        "answers.py",
        "        elif not self._asked:\n            self._add(begun)",
        "        else:\n            self._add(begun)",
    ),
    Bug(
        "give_a_place_back_before_the_answer",
        "replies",
        "answers.py",
        """\
                    self._outbox.put(await self._waiting[0].wait())
                    del self._waiting[0]
""",
        """\
                    self._outbox.put(await self._waiting.pop(0).wait())
""",
    ),
    Bug(
        "overtake_what_waits",
        "replies",
        "answers.py",
        "                if self._waiting or not self._begin(request):",
        "                if not self._begin(request):",
    ),
    Bug(
        "begin_beside_another_kind",
        "replies",
        "answers.py",
        "            self._beside is None or not request.goes_with(self._beside) or len",
        "            self._beside is None or len",
    ),
    Bug(
        "confuse_the_answers_of_a_batch",
        "batches",
        "database/batches.py",
        "            answered = list(zip(batch, outcomes, strict=True))",
        "            answered = list(zip(batch, outcomes[::-1], strict=True))",
    ),
    Bug(
        "give_all_of_a_batch_the_error_of_one",
        "batches",
        "database/batches.py",
        "            answered = list(zip(batch, outcomes, strict=True))",
        """\
            for error in outcomes:
                if isinstance(error, Exception):
                    raise error
            answered = list(zip(batch, outcomes, strict=True))""",
    ),
    Bug(
        "leave_what_a_batch_can_not_say_unanswered",
        "batches",
        "database/batches.py",
        """\
            if outcome is None:
                nursery.start_soon(self._answer_alone, ticket)
""",
        """\
            if outcome is None:
                ticket.is_dropped = True
""",
    ),
    Bug(
        "tell_of_an_outcome_before_the_next_one_has_its_own",
        "batches",
        "database/batches.py",
        """\
        ticket.settle(outcome)
    for ticket, _ in done:
        ticket.tell()""",
        """\
        ticket.settle(outcome)
        ticket.tell()""",
    ),
    # The outbox and the wire
    Bug(
        "deliver_before_the_reply",
        "outbox",
        "events/outbox.py",
        """\
        sent = self._send_now(frames) if self.state is CLEAR else 0
        if sent < len(frames):
            self._queue(frames, sent)
        self.messages += count
""",
        """\
        async def put_later() -> None:
            await trio.sleep(0.1)
            with suppress(trio.BrokenResourceError):
                self._queue(frames, 0)

        trio.lowlevel.spawn_system_task(put_later)
        self.messages += count
""",
    ),
    Bug(
        "let_an_outbox_grow",
        "outbox",
        "events/outbox.py",
        "            if self.waiting_bytes and self.waiting_bytes + len(frame) > self._limit_bytes:",
        "            if self.waiting_bytes and self.waiting_bytes + len(frame) > 100 * self._limit_bytes:",
    ),
    Bug(
        "count_frames_for_bytes",
        "outbox",
        "events/outbox.py",
        "        self.waiting_bytes -= size\n",
        "        self.waiting_bytes -= len(frames)\n",
    ),
    Bug(
        "count_what_is_half_out_as_waiting",
        "outbox",
        "events/outbox.py",
        """\
            self._rest, frames = frames[sent:], b""
        try:
            self._channel.send_nowait(frames)
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError from None
        self.waiting_bytes += len(frames)
""",
        """\
            self._rest, frames = frames[sent:], b""
        try:
            self._channel.send_nowait(frames)
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError from None
        self.waiting_bytes += len(frames) + len(self._rest)
""",
    ),
    Bug(
        "lose_the_rest_of_a_frame",
        "outbox",
        "events/outbox.py",
        '            self._rest, frames = frames[sent:], b""\n',
        '            frames = b""\n',
    ),
    Bug(
        "queue_the_rest_of_a_frame_behind_pings",
        "outbox",
        "events/outbox.py",
        '            self._rest, frames = frames[sent:], b""\n',
        "            frames = frames[sent:]\n",
    ),
    Bug(
        "send_the_rest_of_a_frame_after_the_next",
        "outbox",
        "events/outbox.py",
        "        first = [self._rest, *self._control.values()]\n",
        "        first = [*self._control.values(), self._rest]\n",
    ),
    Bug(
        "overtake_what_its_writer_has_taken",
        "outbox",
        "events/outbox.py",
        "        sent = send_now(frame) if self.state is CLEAR else 0\n",
        "        sent = 0 if self.waiting_bytes else send_now(frame)\n",
    ),
    Bug(
        "be_clear_while_something_waits",
        "outbox",
        "events/outbox.py",
        "        if self.state is WAITING and not self.has_news():",
        "        if self.state is WAITING:",
    ),
    Bug(
        "send_half_of_a_large_reply",
        "wire",
        "wire/stream.py",
        "            for start in range(sent, len(data), PROGRESS_BYTES):",
        "            for start in range(sent, min(len(data), sent + PROGRESS_BYTES), PROGRESS_BYTES):",
    ),
    Bug(
        "go_on_after_a_send_that_was_cancelled",
        "wire",
        "wire/stream.py",
        """\
        except BaseException:
            self._let_go()
            await trio.aclose_forcefully(self._stream)
            raise
""",
        """\
        except BaseException:
            raise
""",
    ),
    Bug(
        "miss_the_end_behind_what_was_said_last",
        "wire",
        "wire/stream.py",
        "(len(data) == RECEIVE_BYTES or self._is_over)",
        "len(data) == RECEIVE_BYTES",
    ),
    Bug(
        "miss_what_one_read_does_not_bring",
        "wire",
        "wire/stream.py",
        "(len(data) == RECEIVE_BYTES or self._is_over)",
        "self._is_over",
    ),
    Bug(
        "drop_what_the_ear_heard_and_nobody_took",
        "wire",
        "wire/stream.py",
        "            self._wake(said[taken:])",
        "            self._wake([])",
    ),
    Bug(
        "take_a_text_inside_of_a_fragmented_one",
        "wire",
        "wire/frames.py",
        " or data[at] != FIN | TEXT or self._fragments is not None:",
        " or data[at] != FIN | TEXT:",
    ),
    Bug(
        "take_a_fragment_for_a_message",
        "wire",
        "wire/frames.py",
        "data[at] != FIN | TEXT or",
        "data[at] & OPCODE != TEXT or",
    ),
    Bug(
        "lose_a_message_that_a_ping_comes_into",
        "wire",
        "wire/frames.py",
        """\
                raise Violation(CloseCode.RATE_LIMITED, "too many pings or pongs")
            return opcode, payload
""",
        """\
                raise Violation(CloseCode.RATE_LIMITED, "too many pings or pongs")
            self._partial.clear()
            self._fragments = None
            return opcode, payload
""",
    ),
    Bug(
        "close_a_violation_with_another_code",
        "wire",
        "wire/frames.py",
        '            raise Violation(CloseCode.MESSAGE_TOO_BIG, f"message over',
        '            raise Violation(CloseCode.PROTOCOL_ERROR, f"message over',
    ),
    # Keeping alive
    Bug(
        "never_ping",
        "keep alive",
        "line.py",
        "                self._set_beat(self._settings.ping_seconds)\n",
        "",
    ),
    Bug(
        "ping_once",
        "keep alive",
        "websocket.py",
        "        self._pinged = None\n        self._set_beat(self._settings.ping_seconds)\n",
        "        self._pinged = None\n",
    ),
    Bug(
        "do_not_excuse_a_slow_reader_from_a_pong",
        "keep alive",
        "websocket.py",
        "self._wire.is_waited_for or trio.current_time() < self._excused_until\n",
        "self._wire.is_waited_for\n",
    ),
    Bug(
        "take_any_pong_for_the_one_that_is_waited_for",
        "keep alive",
        "websocket.py",
        "        elif payload == self._pinged:",
        "        else:",
    ),
    Bug(
        "sleep_past_a_beat_that_is_sooner",
        "keep alive",
        "pulse.py",
        "        self._nap.deadline = min(self._nap.deadline, beat.moment)\n",
        "",
    ),
    # Ending
    Bug(
        "fail_where_it_stops",
        "ending",
        "server.py",
        "        farewell = min(2 * settings.close_seconds, settings.drain_seconds / 2)",
        "        farewell = min(2 * settings.close_seconds, settings.drain_second / 2)",
    ),
    Bug(
        "do_not_stop",
        "ending",
        "line.py",
        "        self._ending = self._ending or Ending(code, reason, retry_after)\n",
        "        return\n",
    ),
    Bug(
        "stop_without_a_word_on_when_to_come_back",
        "ending",
        "line.py",
        '        self.end(code, f"retry_after={wait:.1f}", seconds=seconds, retry_after=wait)',
        '        self.end(code, "", seconds=seconds)',
    ),
    Bug(
        "never_end",
        "ending",
        "server.py",
        """\
            serving.cancel_scope.deadline = server.drain()
        background.cancel_scope.cancel()
""",
        "            serving.cancel_scope.deadline = server.drain()\n",
    ),
    Bug(
        "drain_without_a_deadline",
        "ending",
        "server.py",
        "            serving.cancel_scope.deadline = server.drain()\n",
        "            server.drain()\n",
    ),
    Bug(
        "drop_what_is_under_way_where_it_ends",
        "ending",
        "line.py",
        "        if seconds <= 0:\n            self._outbox.close",
        "        if seconds >= 0:\n            self._outbox.close",
    ),
    # Tokens
    Bug(
        "outlive_a_token_that_expires",
        "tokens",
        "actions/session.py",
        "        self._stay(math.inf if identity.seconds_left is None else identity.seconds_left)\n",
        "        if self._due == math.inf and identity.seconds_left is not None:\n"
        "            self._stay(identity.seconds_left)\n",
    ),
    Bug(
        "keep_the_deadline_of_the_old_token",
        "tokens",
        "actions/session.py",
        "        self._stay(math.inf if identity.seconds_left is None else identity.seconds_left)\n",
        "        if identity.seconds_left is not None:\n            self._stay(identity.seconds_left)\n",
    ),
    Bug(
        "see_no_revocation",
        "tokens",
        "server.py",
        '        background.start_soon(forever, "tokens", services.tokens.check)\n',
        "",
    ),
    Bug(
        "tell_one_holder_of_a_revocation",
        "tokens",
        "actions/tokens.py",
        "                for lose in list(self._holders.get(identity, ())):",
        "                for lose in list(self._holders.get(identity, ()))[:1]:",
    ),
    Bug(
        "see_no_revocation_of_a_token_that_was_brought_twice",
        "tokens",
        "actions/session.py",
        """\
        self.close()
        self._let_go = services.tokens.hold(identity, self._revoke)
""",
        """\
        let_go, self._let_go = self._let_go, services.tokens.hold(identity, self._revoke)
        let_go()
""",
    ),
    Bug(
        "hold_tokens_of_who_has_gone",
        "tokens",
        "line.py",
        "        self._session.close()\n        # They",
        "        # They",
    ),
    Bug(
        "tell_who_has_lost_its_token",
        "tokens",
        "actions/session.py",
        """\
        self._services.dispatcher.unsubscribe_all(self.follower)
        self._end(CloseCode.UNAUTHORIZED, reason, seconds=LAST_WORDS_SECONDS)
""",
        "        self._end(CloseCode.UNAUTHORIZED, reason, seconds=LAST_WORDS_SECONDS)\n",
    ),
    Bug(
        "go_on_telling_who_may_not_read_any_more",
        "tokens",
        "actions/session.py",
        """\
        if not identity.allows("read"):
            services.dispatcher.unsubscribe_all(self.follower)
""",
        "",
    ),
    Bug(
        "check_a_scope_only_before_it_waits",
        "tokens",
        "actions/table.py",
        "            self._check_scope()  # once more: the token may have been lost\n",
        "",
    ),
    # Webhooks
    Bug(
        "take_any_answer_for_a_delivery",
        "webhooks",
        "webhooks/delivery.py",
        "        if answer.is_taken:\n",
        "        if answer.status:\n",
    ),
    Bug(
        "claim_for_less_time_than_a_post_takes",
        "webhooks",
        "webhooks/delivery.py",
        "        lease = self._settings.webhook_seconds + LEASE_SECONDS\n",
        "        lease = 1.0\n",
    ),
    Bug(
        "forget_what_came_of_webhooks_in_an_outage",
        "webhooks",
        "webhooks/delivery.py",
        """\
            except Unavailable:
                raise
            except Exception as error:
""",
        """\
            except Unavailable:
                changes = []
            except Exception as error:
""",
    ),
    Bug(
        "keep_what_was_claimed_where_it_stops",
        "webhooks",
        "webhooks/delivery.py",
        "                    await self._release()\n",
        "                    await self._settle()\n",
    ),
    Bug(
        "give_up_a_webhook_at_its_first_failure",
        "webhooks",
        "database/schema/0018_webhook_history.sql",
        "      d.failed_at := CASE WHEN moment >= d.since + keep THEN moment END;",
        "      d.failed_at := CASE WHEN moment >= d.since THEN moment END;",
    ),
    Bug(
        "give_an_account_no_turn",
        "webhooks",
        "database/schema/0015_webhooks_in_turn.sql",
        " AND account_id <> ALL (skipped) ORDER BY due_at LIMIT 1;",
        " AND account_id <> ALL (skipped) ORDER BY account_id LIMIT 1;",
    ),
    # Customers and operators
    Bug(
        "send_a_customer_whole_events",
        "customers",
        "events/spelling.py",
        "    full.for_customers = Spelling(lambda event: spell(hide_in(event)))\n",
        "",
    ),
    Bug(
        "replay_whole_events_to_a_customer",
        "customers",
        "events/chunks.py",
        "        frames.append(view.spelling.spell(event))",
        "        frames.append(FRAMES.spell(event))",
    ),
    Bug(
        "show_a_customer_what_a_field_was_before",
        "customers",
        "checkout.py",
        """, "previous": hide(event.previous), """,
        """, "previous": event.previous, """,
    ),
    Bug(
        "show_a_customer_a_whole_snapshot",
        "customers",
        "actions/topics.py",
        "hide(state) if session.identity.is_customer else state",
        "state",
    ),
    Bug(
        "show_a_customer_a_whole_invoice",
        "customers",
        "actions/invoices.py",
        "asked.then(_for_customer if session.identity.is_customer else _found)",
        "asked.then(_found)",
    ),
    Bug(
        "show_a_customer_references_of_payments",
        "customers",
        "checkout.py",
        """"memo", "reference", "webhook_url"})""",
        """"memo", "webhook_url"})""",
    ),
    Bug(
        "list_prices_for_customers",
        "customers",
        "actions/table.py",
        """Row(ListPrices, prices.list_prices, "read")""",
        """Row(ListPrices, prices.list_prices, "read", for_customers=True)""",
    ),
    Bug(
        "let_a_customer_follow_all_but_accounts",
        "customers",
        "actions/topics.py",
        """is_customer and topic.type != "invoice":""",
        """is_customer and topic.type == "account":""",
    ),
    Bug(
        "hide_from_a_merchant_that_was_a_customer",
        "customers",
        "actions/session.py",
        "        self.follower.spelling = self._spelling\n",
        "",
    ),
    Bug(
        "send_operators_no_account_s_events",
        "operators",
        "actions/session.py",
        """None if identity.account_id is None else f"account:{identity.account_id}\"""",
        """f"account:{identity.account_id}\"""",
    ),
    Bug(
        "list_no_connections_of_account_2",
        "operators",
        "actions/connections.py",
        "        if asked.account_id in (None, one.identity.account_id)\n",
        "        if asked.account_id in (None, one.identity.account_id) and one.identity.account_id != 2\n",
    ),
    Bug(
        "list_another_account_s_connections",
        "accounts",
        "actions/connections.py",
        "        session.identity.account_asked_for(action.account_id),\n",
        "        action.account_id,\n",
    ),
    Bug(
        "end_another_connection",
        "operators",
        "actions/connections.py",
        "client.number == asked.number",
        "client.number <= asked.number",
    ),
    Bug(
        "end_a_connection_for_a_merchant",
        "operators",
        "actions/table.py",
        "connections.end_connection, ADMIN)",
        """connections.end_connection, "write")""",
    ),
    Bug(
        "revoke_another_token",
        "operators",
        "actions/accounts.py",
        "tokens.revoke_token, action.id)",
        "tokens.revoke_token, action.id - 1)",
    ),
    Bug(
        "skip_an_account_between_two_pages",
        "operators",
        "actions/accounts.py",
        "found[most - 1].id if",
        "found[most].id if",
    ),
    Bug(
        "skip_an_event_between_two_pages_of_a_history",
        "operators",
        "actions/history.py",
        "history.events[-1].seq if",
        "history.events[-1].seq + 1 if",
    ),
    Bug(
        "retry_another_account_s_webhook",
        "accounts",
        "actions/webhooks.py",
        "webhook_lists.retry_delivery, action.id, session.identity.account_id",
        "webhook_lists.retry_delivery, action.id, None",
    ),
    Bug(
        "show_another_account_s_webhook",
        "accounts",
        "actions/webhooks.py",
        "webhook_lists.find_delivery, action.id, session.identity.account_id",
        "webhook_lists.find_delivery, action.id, None",
    ),
    Bug(
        "leave_the_newest_webhook_out_of_a_list",
        "operators",
        "actions/webhooks.py",
        "for listed in page.deliveries]",
        "for listed in page.deliveries[1:]]",
    ),
    Bug(
        "say_that_a_webhook_is_sent_again",
        "operators",
        "actions/webhooks.py",
        "    listed = await services.database.run(webhook_lists.retry_delivery,",
        "    listed, _, _ = await services.database.run(webhook_lists.find_delivery,",
    ),
    # PostgreSQL's sessions
    Bug(
        "keep_the_place_of_a_session_that_was_cut",
        "lanes",
        "database/lanes.py",
        "            del self.stuck[place]\n            place.leave()\n",
        "            del self.stuck[place]\n",
    ),
    Bug(
        "keep_a_place_of_who_was_cancelled_while_it_waited",
        "lanes",
        "database/lanes.py",
        "                taken.callback(limiter.release_on_behalf_of, self)\n",
        "",
    ),
)

# The first seed that finds each: what `python -m tests.testing.planted` prints.
FOUND_BY: dict[str, int] = {
    "lose_a_wake_up": 0,
    "read_the_first_batch_of_a_backlog_alone": 6,
    "know_a_log_by_its_length_alone": 3,
    "take_what_can_not_be_read_at_once_for_the_end": 6,
    "note_an_event_after_it_was_told": 0,
    "note_a_whole_batch_before_it_is_told": 6,
    "tell_the_followers_of_the_first_topic_alone": 0,
    "send_nothing_that_the_first_topic_is_not_followed_of": 0,
    "forget_an_unsubscribe": 0,
    "leave_the_dead_subscribed": 0,
    "tell_no_watcher_of_a_log_that_was_replaced": 5,
    "leave_topics_where_they_were_at_a_replay": 1,
    "resume_one_too_late": 4,
    "tell_twice": 21,
    "be_live_one_event_too_early": 7,
    "tell_an_account_another_s_events": 0,
    "replay_an_account_another_s_events": 0,
    "leave_out_what_was_before": 0,
    "append_to_a_page_what_it_has": 6,
    "search_a_page_without_its_last_topic": 6,
    "search_no_event_that_came_after_the_first_search": 4,
    "leave_a_page_s_events_unsorted": 4,
    "skip_the_check_of_names": 3,
    "skip_the_check_of_what_was_trimmed": 3,
    "refuse_the_position_of_a_page_s_first_event": 7,
    "keep_pages_of_a_log_that_was_replaced": 27,
    "number_out_of_order": 3,
    "say_that_nothing_was_missed": 2,
    "replay_what_is_not_recovered": 3,
    "follow_from_the_beginning_after_a_gap": 2,
    "forget_keys": 16,
    "make_it_another_account_s": 0,
    "fetch_another": 0,
    "find_nothing": 0,
    "fetch_what_is_another_account_s": 0,
    "cancel_what_is_another_account_s": 0,
    "say_that_it_was_cancelled": 0,
    "expire_nothing": 0,
    "keep_prices_as_they_were": 0,
    "keep_prices_of_a_log_that_was_lost": 5,
    "convert_by_the_oldest_price_of_a_pair": 0,
    "answer_a_price_before_one_finds_it_oneself": 0,
    "give_a_place_back_before_the_answer": 0,
    "overtake_what_waits": 0,
    "confuse_the_answers_of_a_batch": 0,
    "give_all_of_a_batch_the_error_of_one": 0,
    "deliver_before_the_reply": 0,
    "count_frames_for_bytes": 1,
    "lose_the_rest_of_a_frame": 6,
    "be_clear_while_something_waits": 6,
    "send_half_of_a_large_reply": 1,
    "drop_what_the_ear_heard_and_nobody_took": 38,
    "take_a_text_inside_of_a_fragmented_one": 5,
    "take_a_fragment_for_a_message": 0,
    "lose_a_message_that_a_ping_comes_into": 0,
    "close_a_violation_with_another_code": 0,
    "fail_where_it_stops": 0,
    "do_not_stop": 0,
    "stop_without_a_word_on_when_to_come_back": 2,
    "outlive_a_token_that_expires": 3,
    "lose_a_wake_up_during_a_look": 8,
    "drop_what_is_beyond_a_page_of_500": 5,
    "forget_the_topics_that_a_resume_named_before": 31,
    "answer_before_what_was_asked_before_is_answered": 0,
    "never_ping": 4,
    "sleep_past_a_beat_that_is_sooner": 4,
    "keep_the_deadline_of_the_old_token": 3,
    "see_no_revocation": 0,
    "show_a_snapshot_to_another_account": 0,
    "list_what_is_another_account_s": 0,
    "see_no_revocation_of_a_token_that_was_brought_twice": 4,
    "hold_tokens_of_who_has_gone": 0,
    "go_on_telling_who_may_not_read_any_more": 17,
    "never_end": 0,
    "take_any_answer_for_a_delivery": 1,
    "send_a_customer_whole_events": 0,
    "replay_whole_events_to_a_customer": 0,
    "show_a_customer_what_a_field_was_before": 0,
    "show_a_customer_a_whole_snapshot": 0,
    "show_a_customer_a_whole_invoice": 0,
    "show_a_customer_references_of_payments": 0,
    "list_prices_for_customers": 0,
    "let_a_customer_follow_all_but_accounts": 0,
    "hide_from_a_merchant_that_was_a_customer": 0,
    "send_operators_no_account_s_events": 0,
    "list_no_connections_of_account_2": 0,
    "list_another_account_s_connections": 3,
    "end_another_connection": 0,
    "end_a_connection_for_a_merchant": 3,
    "revoke_another_token": 0,
    "skip_an_account_between_two_pages": 0,
    "skip_an_event_between_two_pages_of_a_history": 1,
    "retry_another_account_s_webhook": 0,
    "show_another_account_s_webhook": 0,
    "say_that_a_webhook_is_sent_again": 0,
    "leave_the_newest_webhook_out_of_a_list": 1,
}

# What finds those that no seed does, and why the simulator doesn't.
FOUND_ELSEWHERE: dict[str, Elsewhere] = {
    "refuse_the_last_position_that_is_good": Elsewhere(
        "tests/events/test_log.py::test_it_proves_what_is_kept_of_this_log_and_of_no_other",
        "A client has to come back with just the position before the first event that is kept.",
    ),
    "follow_a_snapshot_from_the_end_of_the_log": Elsewhere(
        "tests/test_protocol.py::test_what_happens_while_a_snapshot_is_on_its_way_is_told",
        "The log has to be read further while the answer with a snapshot is under way.",
    ),
    "tell_one_holder_of_a_revocation": Elsewhere(
        "tests/test_authorization.py::test_all_who_hold_a_revoked_token_end_within_a_second",
        "Two lines have to hold one token when it is revoked, and neither may be in trouble.",
    ),
    "follow_a_topic_from_the_later_of_two_positions": Elsewhere(
        "tests/events/test_dispatcher.py::TestFollowers",
        "No client of a run names a topic twice, from two positions.",
        hangs=True,
    ),
    "send_what_was_read_for_other_topics": Elsewhere(
        "tests/events/test_chunks.py::test_what_was_unsubscribed_from_while_it_was_read_is_not_sent",
        "A topic has to be left in the moment in which a page is read for it.",
    ),
    "pass_over_what_was_trimmed_without_a_word": Elsewhere(
        "tests/events/test_follower.py::test_who_missed_what_was_trimmed_ends_and_reads_no_more",
        "A reader has to be behind just where the log is trimmed past it.",
    ),
    "send_a_view_more_than_it_wants_yet": Elsewhere(
        "tests/events/test_dispatcher.py::TestFollowers",
        "One has to follow more from a later position while it reads on.",
        hangs=True,
    ),
    "pass_over_the_event_that_had_no_room": Elsewhere(
        "tests/events/test_dispatcher.py::TestFollowers",
        "A page has to be longer than what goes out together.",
        hangs=True,
    ),
    "keep_chunks_of_a_log_that_was_replaced": Elsewhere(
        "tests/events/test_chunks.py::test_what_was_joined_of_another_log_is_sent_to_nobody",
        "Two clients have to read the same page, one before and one after the loss.",
    ),
    "take_a_page_that_was_on_its_way_for_the_new_log_s": Elsewhere(
        "tests/events/test_log.py::test_a_page_of_another_log_is_not_taken_for_one_of_this",
        "The log has to be replaced in the moment in which a page is read.",
        hangs=True,
    ),
    "drop_what_is_beyond_a_page_of_what_was_found": Elsewhere(
        "tests/events/test_log.py"
        "::test_what_is_found_for_a_client_that_is_far_behind_is_what_the_pages_hold[simulated]",
        "Nobody in a run is 20 000 events behind.",
    ),
    "take_a_position_that_is_ahead_for_a_gap": Elsewhere(
        "tests/test_server.py::test_a_position_that_another_server_told_of_first_is_waited_for",
        "A client has to change servers in the milliseconds in which one is behind.",
    ),
    "follow_a_snapshot_that_is_ahead_of_the_log": Elsewhere(
        "tests/test_server.py::test_a_snapshot_waits_until_this_server_has_told_of_what_it_holds",
        "An event has to come between a snapshot and its numbering by this server.",
    ),
    "follow_a_snapshot_of_a_log_that_was_replaced": Elsewhere(
        "tests/test_server.py::test_a_snapshot_of_what_was_lost_is_not_followed",
        "The log has to be replaced in the moment in which a snapshot is read.",
    ),
    "expire_some_and_miss_what_failed_once": Elsewhere(
        "tests/database/test_expiry.py::test_it_is_tried_again_with_growing_pauses_until_it_does",
        "The simulated database stands where PostgreSQL and its statements are.",
    ),
    "put_an_older_price_on_a_newer_book": Elsewhere(
        "tests/test_prices.py::test_an_older_event_that_comes_later_does_not_set_the_list_back",
        "Prices are read once, and have to change in that moment.",
    ),
    "forget_what_came_while_prices_were_read": Elsewhere(
        "tests/test_prices.py::test_what_changes_while_they_are_read_is_in_the_list",
        "Prices are read once, and have to change in that moment.",
    ),
    "begin_beside_another_kind": Elsewhere(
        "tests/test_answering.py::test_a_fetch_behind_a_create_sees_the_invoice",
        "Replies come in order all the same; what is older by a moment is no violation.",
    ),
    "leave_what_a_batch_can_not_say_unanswered": Elsewhere(
        "tests/database/test_batches.py::test_one_that_is_wrong_fails_alone_and_holds_up_no_others",
        "The simulated database can say what comes of each.",
    ),
    "tell_of_an_outcome_before_the_next_one_has_its_own": Elsewhere(
        "tests/database/test_batches.py::test_all_of_a_batch_have_their_outcome_before_anybody_is_told",
        "Replies come in order all the same.",
    ),
    "queue_the_rest_of_a_frame_behind_pings": Elsewhere(
        "tests/events/test_outbox.py::test_the_rest_of_a_frame_goes_before_all_others",
        "A ping has to come while half of a frame is out.",
    ),
    "send_the_rest_of_a_frame_after_the_next": Elsewhere(
        "tests/events/test_outbox.py::test_the_rest_of_a_frame_goes_before_all_others",
        "A ping has to come while half of a frame is out.",
    ),
    "overtake_what_its_writer_has_taken": Elsewhere(
        "tests/events/test_outbox.py"
        "::test_where_there_is_no_room_it_waits_and_all_that_follows_waits_behind_it",
        "The writer has to wait for room with nothing else queued, in the moment of an event.",
    ),
    "go_on_after_a_send_that_was_cancelled": Elsewhere(
        "tests/wire/test_stream.py::test_who_is_hung_up_on_in_the_middle_of_a_frame_gets_no_more_of_it",
        "Who hangs up hears nothing of what comes after.",
    ),
    "miss_the_end_behind_what_was_said_last": Elsewhere(
        "tests/wire/test_ear.py::test_the_end_that_comes_together_with_what_was_said_last_is_seen_too",
        "A simulated ear is told of each piece; epoll's edges are not simulated.",
    ),
    "miss_what_one_read_does_not_bring": Elsewhere(
        "tests/wire/test_ear.py::test_however_it_is_cut_to_pieces_all_is_heard_in_order",
        "A simulated ear is told of each piece; epoll's edges are not simulated.",
    ),
    "ping_once": Elsewhere(
        "tests/test_connection.py::test_a_pong_to_another_ping_is_no_answer",
        "A client has to vanish after it has answered a ping, and the run to last for another.",
    ),
    "do_not_excuse_a_slow_reader_from_a_pong": Elsewhere(
        "tests/test_connection.py"
        "::test_who_was_slow_when_pinged_is_excused_from_its_pong_for_the_kernel_may_hold_what_it_has_not_read",
        "Who reads nothing for long is excused from its end.",
    ),
    "take_any_pong_for_the_one_that_is_waited_for": Elsewhere(
        "tests/test_connection.py::test_a_pong_to_another_ping_is_no_answer",
        "Clients of a run send no pong that nobody asked for.",
    ),
    "drain_without_a_deadline": Elsewhere(
        "tests/test_server.py::test_stopping_ends_in_time_also_where_a_goodbye_is_not_answered",
        "Clients of a run answer a close at once, or have gone.",
    ),
    "drop_what_is_under_way_where_it_ends": Elsewhere(
        "tests/test_server.py::test_stopping_answers_what_is_in_flight",
        "What is not answered where a line ends is asked again.",
    ),
    "check_a_scope_only_before_it_waits": Elsewhere(
        "tests/actions/test_table.py::test_a_token_that_is_lost_before_the_answer_is_good_for_nothing",
        "A token has to end while a request of its line waits.",
    ),
    "claim_for_less_time_than_a_post_takes": Elsewhere(
        "tests/webhooks/test_delivery.py::test_one_slow_endpoint_delays_no_other",
        "It takes two servers and a slow endpoint, in calm times.",
    ),
    "forget_what_came_of_webhooks_in_an_outage": Elsewhere(
        "tests/webhooks/test_delivery.py::test_an_outage_loses_nothing_and_doubles_nothing",
        "A webhook that comes again after an outage is excused.",
    ),
    "keep_what_was_claimed_where_it_stops": Elsewhere(
        "tests/webhooks/test_delivery.py::test_a_server_that_stops_gives_back_what_it_has_not_delivered",
        "It comes all the same, when its lease is over.",
    ),
    "give_up_a_webhook_at_its_first_failure": Elsewhere(
        "tests/webhooks/test_queue.py"
        "::test_what_failed_waits_and_the_rest_of_its_invoice_with_it[postgresql]",
        "The simulated database stands where PostgreSQL and its statements are.",
    ),
    "give_an_account_no_turn": Elsewhere(
        "tests/webhooks/test_queue.py::test_accounts_have_their_turn_and_so_do_their_endpoints[postgresql]",
        "The simulated database stands where PostgreSQL and its statements are.",
    ),
    "keep_the_place_of_a_session_that_was_cut": Elsewhere(
        "tests/database/test_lanes.py::test_a_place_is_held_until_its_session_has_gone",
        "A simulated database has no sessions, and so no lanes.",
    ),
    "keep_a_place_of_who_was_cancelled_while_it_waited": Elsewhere(
        "tests/database/test_lanes.py::test_a_list_that_is_cancelled_while_it_waits_leaves_nothing_behind",
        "A simulated database has no sessions, and so no lanes.",
    ),
    "leave_who_is_behind_in_a_log_that_was_replaced": Elsewhere(
        "tests/events/test_dispatcher.py::test_another_log_ends_a_follower_that_reads_on_too",
        "A reader has to be behind just where the log is replaced.",
    ),
    "count_what_is_half_out_as_waiting": Elsewhere(
        "tests/events/test_outbox.py::test_once_the_rest_of_a_frame_is_taken_nothing_waits",
        "What is counted too much is a part of a frame: there is room a little later.",
    ),
    "take_prices_of_another_log_for_proven": Elsewhere(
        "tests/test_prices.py::test_prices_that_were_lost_before_this_server_heard_of_them_are_read_again",
        "Prices are read once, and have to be lost before this server hears of them.",
    ),
    "follow_prices_before_the_log_has_what_the_book_has": Elsewhere(
        "tests/test_prices.py::test_a_snapshot_of_prices_waits_until_this_server_has_told_of_what_it_holds",
        "Prices are read once, and have to change in that moment.",
    ),
    "tell_who_has_lost_its_token": Elsewhere(
        "tests/test_authorization.py::test_who_has_lost_its_token_is_told_nothing_while_it_is_ended",
        "It is told for half a second more, in which it may be told.",
    ),
    "leave_the_killed_subscribed": Elsewhere(
        "tests/test_connection.py::test_who_is_ended_while_it_waits_for_an_answer_leaves_nothing_behind",
        "A server that is killed takes its dispatcher with it.",
    ),
    "drop_prices_that_nothing_replaces": Elsewhere(
        "tests/events/test_follower.py"
        "::test_who_falls_behind_again_after_a_replay_gets_each_prices_latest_state",
        "A reader has to fall behind again in a replay of prices.",
    ),
    "never_look_again_after_an_outage": Elsewhere(
        "tests/events/test_tail.py::test_a_step_that_failed_is_tried_again_soon_however_seldom_it_polls",
        "The next event wakes it, and an outage excuses delay.",
    ),
    "let_an_outbox_grow": Elsewhere(
        "tests/events/test_outbox.py::test_an_event_without_room_is_not_queued",
        "What waits is seen at the server that started last, and has to be of many events at once.",
    ),
}

if __name__ == "__main__":
    main()
