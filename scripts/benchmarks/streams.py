"""What a delivery costs as an event stream's block beside a WebSocket's frame, and that both tell the same.

One server has both kinds of followers. All follow one account; the WebSockets also follow a second one, and
the event streams a third. Events of the three take turns, so that both costs are of the same minute, the same
process and the same memory: the server's CPU time from an event until all is quiet again.
"""

import json
import re
import select
import socket
import statistics
import threading
import time

import psycopg

from scripts.benchmarks.target import PATIENCE_SECONDS, serving, text_frame

FOLLOWERS = 1000  # of each kind
EVENTS = 100  # of each account
QUIET_SECONDS = 0.02  # once an event has reached all
BOTH, SOCKETS, STREAMS = 1, 2, 3  # the accounts
INSERT = "INSERT INTO invoices (account_id, amount, currency) VALUES (%s, 1000, 'USD')"
MARK = b'"invoice.created"'
EVENT = re.compile(rb'"account_id":(\d+).*?"position":"([^"]+)"')
RATIO = 1.3  # at most


def measure(followers=FOLLOWERS, events=EVENTS):
    """Return what it costs, in words.

    Raises:
        AssertionError: somebody was not told of each event, or in another order.
    """
    with serving(ping_seconds=600) as target, psycopg.connect(target.conninfo, autocommit=True) as database:
        database.execute("INSERT INTO accounts SELECT FROM generate_series(2, 3)")
        ((position,),) = database.execute("SELECT name || '.' || last FROM event_end")
        sockets = [_open_socket(target, position) for _ in range(followers)]
        streams = [_open_stream(target, position) for _ in range(followers)]
        heard = _Heard([*sockets, *streams])
        _publish(target, database, heard, followers, events // 5)  # until the processor knows its way
        costs = _publish(target, database, heard, followers, events)
        _check(heard, sockets, streams)
    a_socket, a_stream, both = (statistics.fmean(costs[one]) / followers for one in (SOCKETS, STREAMS, BOTH))
    ratio = statistics.median(map(_divide, costs[STREAMS], costs[SOCKETS]))
    return (
        f"{followers:,} event streams beside {followers:,} WebSockets, told the same in the same order;"
        f" CPU a delivery {a_stream * 1e6:.2f} µs and {a_socket * 1e6:.2f} µs, where both have it"
        f" {both / 2 * 1e6:.2f} µs; {ratio:.2f} × a WebSocket's, {'✓' if ratio <= RATIO else '✗'} ≤ {RATIO}"
    )


def _divide(one, other):
    return one / other


def _publish(target, database, heard, followers, times):
    """Return the CPU seconds of each event, by account."""
    costs = {SOCKETS: [], STREAMS: [], BOTH: []}
    wanted = heard.told
    for number in range(times):
        # Neither is always the one that comes after `BOTH`.
        for account in (BOTH, SOCKETS, STREAMS) if number % 2 else (BOTH, STREAMS, SOCKETS):
            before = target.cpu_seconds()
            database.execute(INSERT, (account,))
            wanted += followers * (2 if account == BOTH else 1)
            heard.wait(wanted)
            time.sleep(QUIET_SECONDS)
            costs[account].append(target.cpu_seconds() - before)
    return costs


def _open_socket(target, position):
    topics = [{"type": "account", "id": account} for account in (BOTH, SOCKETS)]
    line = target.connect()
    line.sendall(text_frame(json.dumps({"action": "resume", "after": position, "topics": topics}).encode()))
    return _opened(line)


def _open_stream(target, position):
    line = socket.create_connection(("127.0.0.1", target.port))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    query = f"topic=account:{BOTH}&topic=account:{STREAMS}&after={position}"
    line.sendall(f"GET /events?{query} HTTP/1.1\r\nHost: localhost:{target.port}\r\n\r\n".encode())
    return _opened(line)


def _opened(line):
    """Return a line that has had the reply which says what it follows."""
    line.settimeout(PATIENCE_SECONDS)
    reply = b""
    while b'"recovered":true' not in reply or not reply.endswith((b"}", b"\n\n")):
        data = line.recv(4096)
        assert data, reply
        reply += data
    return line


class _Heard:
    """Reads what comes for each, in a thread of its own."""

    def __init__(self, lines):
        self._bytes = {line.fileno(): bytearray() for line in lines}
        self._lines = {line.fileno(): line for line in lines}
        self.told = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait(self, wanted):
        """Wait until so many events have come, of all lines together."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.told < wanted:
            assert time.monotonic() < deadline, f"{self.told} of {wanted} events came"
            time.sleep(0.002)

    def of(self, line):
        """Return the account and position of each event that came, in order."""
        found = EVENT.findall(self._bytes[line.fileno()])
        return [(int(account), position) for account, position in found]

    def _read(self):
        poll = select.epoll()
        for number in self._lines:
            poll.register(number, select.EPOLLIN)
        while True:
            for number, _ in poll.poll():
                data = self._lines[number].recv(65536)
                held = self._bytes[number]
                self.told += (held[1 - len(MARK) :] + data).count(MARK)
                held += data
                if not data:
                    poll.unregister(number)


def _check(heard, sockets, streams):
    """See that each kind was told of all, and both of the same in the same order."""
    told = {
        name: {tuple(heard.of(line)) for line in lines}
        for name, lines in (("WebSockets", sockets), ("event streams", streams))
    }
    assert all(len(orders) == 1 for orders in told.values()), "not all of a kind were told the same"
    of_both = {
        tuple(position for account, position in events if account == BOTH)
        for orders in told.values()
        for events in orders
    }
    assert len(of_both) == 1, "they were told in another order"
    for orders in told.values():
        (events,) = orders
        numbers = [int(position.rpartition(b".")[2]) for _, position in events]
        assert numbers == sorted(set(numbers)), "what came was doubled, or out of order"
