"""What receivers of webhooks must get: each event of an invoice, in order, whole, signed, and soon.

All servers of a run POST to one receiver, which knows the truth. A webhook may come more than once, but what
was answered comes again only where something broke meanwhile.
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import trio

from trio_ws.testing.database import EPOCH
from trio_ws.testing.receiver import SimulatedReceiver
from trio_ws.testing.simulation.scenario import BAD_URL
from trio_ws.testing.simulation.truth import Told, Violation
from trio_ws.testing.webhooks import SECRETS
from trio_ws.topics import Event, Position
from trio_ws.webhooks.answer import Answer
from trio_ws.webhooks.delivery import MOST

if TYPE_CHECKING:
    from trio_ws.testing.simulation.run import Run

PROMPT_SECONDS = 5.0  # in calm times an account has its turn within it: a server looks each 2 s, at least
POST_SECONDS = 0.1  # which a receiver takes that is well
# A crowd of an account's endpoints, which are slow: they would take all places of a server for a while.
CROWD_URLS = tuple(f"https://crowd-{number}.example/" for number in range(100))
CROWD_SECONDS = 3.0


class _Row(msgspec.Struct):
    uid: str = ""
    invoice: str = ""  # of a payment
    account_id: int = 0
    webhook_url: str | None = None


class _Sent(msgspec.Struct):
    """A webhook that has come."""

    id: str
    event: Event
    row: _Row
    endpoint: tuple[int, str]


class Deliveries(SimulatedReceiver):
    """Takes the webhooks of a run, and compares them with what is true.

    Args:
        run: The run.
    """

    def __init__(self, run: "Run") -> None:
        super().__init__()
        self._run = run
        self._violation: Violation | None = None
        self._went_wrong = trio.Event()
        self._under_way = 0
        self._posting: dict[str, str] = {}  # the delivery that is under way of each invoice, by its uid
        self._data: dict[str, bytes] = {}  # of the event that a delivery is of, by its id
        self._ids: dict[bytes, str] = {}  # the other way round
        self._urls: dict[str, str] = {}  # by the uid of an invoice: nobody changes them
        self._owners: dict[str, tuple[int, str]] = {}  # the account and the invoice of each, by its id
        self._counts: Counter[str] = Counter()  # how often each came
        self._retried: dict[str, None] = {}  # those that somebody asked for again
        self._seen_again: dict[str, tuple[int, int]] = {}  # how often each of these has to come, in which log
        self._answered: dict[str, float] = {}  # when each was, last, by its id
        self._last: dict[str, Position] = {}  # the last event of each invoice that was answered
        self._turns: dict[int, float] = {}  # when each account's last POST began, or ended
        self._failing: dict[tuple[int, str], None] = {}  # where the last POST failed
        self.get_well()
        self.answers[BAD_URL] = 500

    def heal(self, url: str) -> None:
        """Have a URL be well."""
        self.answers.pop(url, None)
        self.seconds.pop(url, None)

    def get_well(self) -> None:
        """Have all of them be well."""
        self.answers.clear()
        self.seconds = dict.fromkeys(CROWD_URLS, CROWD_SECONDS)

    @property
    def answered(self) -> int:
        """How many have been, each once."""
        return len(self._answered)

    async def watch(self) -> None:
        """Wait until something is wrong, and raise it: what a POST raises is the server's to bear."""
        await self._went_wrong.wait()
        self.check()

    def check(self) -> None:
        """Raise what was wrong, if anything was."""
        if self._violation is not None:
            raise self._violation

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Take one, and compare it."""
        try:
            sent = self._take(url, headers, body)
        except Violation as violation:
            self._violation = self._violation or violation
            self._went_wrong.set()
            return Answer(500)
        status = 0
        self._under_way += 1
        self._posting[sent.row.uid] = sent.id
        try:
            await trio.sleep(POST_SECONDS)
            answer = await super().post(url, headers, body)
            status = answer.status
        finally:
            self._under_way -= 1
            self._posting.pop(sent.row.uid, None)
            self._note_answer(sent, status)
        return answer

    def _take(self, url: str, headers: Mapping[str, str], body: bytes) -> _Sent:
        """Return what has come.

        Raises:
            Violation: it should not have, or not so.
        """
        now = trio.current_time()
        event = self._find(body)
        row = self._row_of(event)
        id_ = headers["trio-ws-delivery"]
        what = f"webhook {id_} of event {event.position}"
        if url != row.webhook_url:
            raise Violation(f"{what} went to {url}, and not to {row.webhook_url}")
        self._check_headers(what, headers, body)
        is_new = id_ not in self._data
        data = bytes(event.data)
        if self._data.setdefault(id_, data) != data or self._ids.setdefault(data, id_) != id_:
            raise Violation(f"{what} is called as another one was, or was called otherwise before")
        sent = _Sent(id_, event, row, (row.account_id, urlsplit(url).netloc))
        if (answered_at := self._answered.get(id_)) is not None:
            if id_ not in self._retried and not self._is_troubled_since(answered_at):
                raise Violation(f"{what} was answered at {answered_at:.1f} s, and came again")
        elif id_ not in self._retried:
            self._check_order(sent)
        self._counts[id_] += 1
        self._owners[id_] = row.account_id, row.uid
        if self._posting.get(sent.row.uid, id_) != id_ and not self._is_troubled_since(now):
            raise Violation(f"{what} came, and of its invoice {self._posting[sent.row.uid]} is under way")
        waiting_since = max(event.at - EPOCH.timestamp(), self._turns.get(row.account_id, 0.0))
        is_late = is_new and now - waiting_since > PROMPT_SECONDS and sent.endpoint not in self._failing
        if is_late and not self._is_troubled_since(waiting_since):
            raise Violation(f"{what} was late: it came after {now - waiting_since:.1f} s")
        if self._under_way >= MOST * len(self._run.worlds):
            raise Violation(f"{self._under_way} webhooks are under way, and {what} came")
        self._turns[row.account_id] = now
        return sent

    def _find(self, body: bytes) -> Event:
        """Return the event that a body is of, and is whole."""
        try:
            told = msgspec.json.decode(body, type=Told)
            position = Position.parse(told.position)
        except ValueError as error:
            raise Violation(f"a webhook is {body!r}: {error}") from None
        if not position.seq or (log := self._run.truth.log_of(position)) is None:
            raise Violation(f"the webhook of event {position} came, which is in no log")
        event = log[position.seq - 1]
        sent = told.type, bytes(told.data), bytes(told.previous)
        is_so = event.type, bytes(event.data), bytes(event.previous)
        if sent != is_so:
            raise Violation(f"the webhook of event {position} is {sent}, and the event is {is_so}")
        return event

    def _row_of(self, event: Event) -> _Row:
        """Return what an event says of an invoice; a payment's goes where its invoice's do."""
        row = msgspec.json.decode(event.data, type=_Row)
        if row.invoice:
            row.uid, row.webhook_url = row.invoice, self._url_of(row.invoice)
        return row

    def _url_of(self, uid: str) -> str | None:
        if uid not in self._urls and self._run.database.has_invoice(UUID(uid)):
            row = msgspec.json.decode(self._run.database.invoice(UUID(uid)), type=_Row)
            self._urls[uid] = row.webhook_url or ""
        return self._urls.get(uid) or None

    def _check_headers(self, what: str, headers: Mapping[str, str], body: bytes) -> None:
        timestamp = int(self._run.database.now())
        message = f"{timestamp}.".encode() + body
        digests = [hmac.new(secret.encode(), message, hashlib.sha256).hexdigest() for secret in SECRETS]
        right = ",".join([f"t={timestamp}", *(f"v1={digest}" for digest in digests)])
        if (signature := headers["trio-ws-signature"]) != right:
            raise Violation(f"{what} is signed by {signature}, and not by {right}")
        standard = headers["webhook-id"], headers["webhook-timestamp"]
        if standard != (headers["trio-ws-delivery"], str(timestamp)):
            raise Violation(f"{what} is said to be {standard}")
        if (content := headers["content-type"]) != "application/json":
            raise Violation(f"{what} is said to be {content}")

    def _check_order(self, sent: _Sent) -> None:
        """Raise where a later event of its invoice was answered before."""
        last, position = self._last.get(sent.row.uid), sent.event.position
        if (
            last is not None
            and last.seq > position.seq
            and self._run.truth.log_of(last, position) is not None
        ):
            raise Violation(f"the webhook of event {position} came after that of {last}")

    def _note_answer(self, sent: _Sent, status: int) -> None:
        now, position = trio.current_time(), sent.event.position
        self._turns[sent.row.account_id] = now
        self._run.say("receiver", f"gets {sent.event.type} {position}, webhook {sent.id}: {status or 'none'}")
        if not 200 <= status < 300:  # noqa: PLR2004 - RFC 9110, 15.3
            self._failing[sent.endpoint] = None
            return
        self._failing.pop(sent.endpoint, None)
        if sent.id not in self._answered:
            self._last[sent.row.uid] = position
        self._answered[sent.id] = now

    # As clients manage them

    def newest(self, most: int) -> list[str]:
        """Return the ids of those that came last for the first time."""
        return [*self._owners][-most:]

    def account_of(self, id_: str) -> int:
        """Return whose one is that has come."""
        return self._owners[id_][0]

    def of_invoice(self, uid: UUID | None) -> list[str]:
        """Return the ids of those that have come of an invoice."""
        return [id_ for id_, (_, invoice) in self._owners.items() if invoice == str(uid)]

    def check_listed(self, id_: str, account: int, invoice: str, state: str) -> None:
        """Raise unless what a list says of one may be so."""
        if (is_so := self._owners.get(id_)) not in (None, (account, invoice)):
            raise Violation(f"webhook {id_} is listed as of {account} and {invoice}, and is of {is_so}")
        if state == "delivered" and id_ not in self._answered:
            raise Violation(f"webhook {id_} is said to be delivered, and was never answered")

    def check_content(self, id_: str, url: str, body: bytes) -> None:
        """Raise unless one is shown as it is sent."""
        event = self._find(body)
        row = self._row_of(event)
        if url != row.webhook_url or self._data.get(id_, data := bytes(event.data)) != data:
            raise Violation(f"webhook {id_} is shown as for {url}, with {body!r}")

    def let_come_again(self, id_: str) -> int:
        """Take it for right that one comes again, and return how often it will have come then.

        One that is under way need not.
        """
        self._retried[id_] = None
        return self._counts[id_] + (id_ in self._answered and id_ not in self._posting.values())

    def see_again(self, id_: str, times: int, changes: int) -> None:
        """Have one come so often before the end, unless the log is replaced once more."""
        self._seen_again[id_] = times, changes

    def _is_troubled_since(self, at: float) -> bool:
        """Return whether something broke, since then or shortly before."""
        return self._run.troubled_until + self._run.after_trouble_seconds >= at

    def check_at_the_end(self) -> None:
        """Raise unless each webhook was answered that no copy of the database holds, and none waits."""
        self.check()
        database = self._run.database
        held = {*database.webhooks.held}
        for event in database.written:
            is_of_invoice = event.type.startswith(("invoice.", "payment."))
            if event.seq in held or not is_of_invoice or self._row_of(event).webhook_url is None:
                continue
            if self._ids.get(bytes(event.data)) not in self._answered:
                raise Violation(f"the webhook of event {event.seq} was never answered")
        for id_, (times, changes) in self._seen_again.items():
            if self._counts[id_] < times and changes == self._run.truth.changes:
                raise Violation(f"webhook {id_} was asked for again, and did not come")
        if waiting := database.webhooks.waiting:
            raise Violation(f"the webhook of event {waiting[0]} waits, and was answered")
