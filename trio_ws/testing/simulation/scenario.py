"""What is to happen in a run: who does what, and when. A seed says it; a shorter one may say it again.

A scenario is data. So it can be written to a file, replayed to the byte, and shrunk: steps are left out until
what is left still fails. A fault is one step with its end, so that leaving it out leaves nothing behind.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from trio_ws.database.lanes import Lane

HOUR = 3600.0
HOURS, CLIENTS = 0.12, 60  # of a run, where nobody says: a second or two, in which most bugs show
ACCOUNTS = 10
CURRENCIES = ("BTC", "ETH", "EUR")
# Where webhooks go: what may take none for a while, and what takes none before all is well at the end.
GOOD_URLS = ("https://good.example/1", "https://good.example/2", "https://other.example/")
BAD_URL = "https://bad.example/"
URLS = (*GOOD_URLS, BAD_URL)
# How often in an hour: for each client, and for each ten of them.
CLIENT_STEPS = {
    "create": 6,
    "fetch": 4,
    "cancel": 4,
    "change_status": 4,
    "list_invoices": 1,
    "pay": 4,
    "say_price": 1,
    "convert": 2,
    "ask_many": 1,
    "follow": 6,
    "follow_crowd": 0.05,
    "unfollow": 2,
    "ask_nonsense": 1,
    "authenticate": 2,
    "shop": 3,
    "list_events": 3,
    "manage_webhooks": 6,
    "manage": 4,
}
PROGRAM_STEPS = {"insert": 12, "update": 50, "take_money": 12, "set_price": 4}
RARE_STEPS = {"burst": 2, "delete_price": 1}  # and in all
# What breaks, by what it happens to. Those joined by `+` happen at once, or nearly so, to the same server.
FAULT_STEPS: dict[str, dict[str, float]] = {
    "clients": {"pause": 12, "hang_up": 12, "vanish": 6, "leave": 6, "break_rules": 4, "revoke": 4},
    "network": {"cut": 16, "hold": 12, "delay": 12},
    "database": {
        "away": 2,
        "slow": 3,
        "deaf": 2,
        "lose_answers": 2,
        "trim": 4,
        "restore": 3,
        "fail_over": 3,
        "clone": 2,
        "crawl": 1,
    },
    "programs": {"bulk": 1, "hold_open": 2},
    "servers": {
        "kill": 2,
        "stop": 2,
        "reload": 1,
        "trickle": 4,
        "cut_off": 1,
        "descriptors": 1,
        "sessions": 1,
        "stop+kill": 0.5,
        "stop+reload": 0.5,
        "descriptors+sessions": 0.5,
    },
    "receivers": {
        "refuse": 2,
        "dawdle": 2,
        "break_posts": 1,
        "crowd": 0.25,
        "dawdle+kill": 0.5,
        "dawdle+stop": 0.5,
        "dawdle+away": 0.5,
        "dawdle+slow": 0.5,
    },
}
FAULTS = tuple(FAULT_STEPS)
if TYPE_CHECKING:
    Fault: TypeAlias = str
else:  # a kind of them, or one, as the command line lists them
    Fault = Literal[(*FAULTS, *(what for steps in FAULT_STEPS.values() for what in steps))]
FAULT_NAMES = {part for steps in FAULT_STEPS.values() for what in steps for part in what.split("+")}
OF_CLIENTS = {*CLIENT_STEPS, *FAULT_STEPS["clients"], *FAULT_STEPS["network"]}
OF_SERVERS = {part for what in FAULT_STEPS["servers"] for part in what.split("+")}
KNOWN_STEPS = {*CLIENT_STEPS, *PROGRAM_STEPS, *RARE_STEPS, *FAULT_NAMES}
# How a client may break the protocol: `client.py` has the bytes.
BROKEN = ("not masked", "text inside a text", "no such frame", "no UTF-8", "too long")
MANAGED = ("accounts", "connections", "end", "create_token", "revoke_token")  # by operators, mostly
WEBHOOK_STATES = ("", "waiting", "failed", "delivered")  # to list; without one, those of the queue
LONGEST_SECONDS = 120.0  # of a fault
SESSIONS = [lane.name for lane in (Lane.AHEAD, Lane.CATCH_UP, Lane.CLIENTS)]


class Step(msgspec.Struct, frozen=True):
    """Something that happens.

    Args:
        at: When, in seconds from the beginning.
        what: A method of `Actors`.
        number: Of whom: of a client, a server, an invoice.
        seconds: How long it lasts, where it does.
        value: Whatever else it takes.
    """

    at: float
    what: str
    number: int = 0
    seconds: float = 0.0
    value: str = ""

    @property
    def lane(self) -> str:
        """Whose it is: a client's, or its line's, a server's, or nobody's by name."""
        of = "client" if self.what in OF_CLIENTS else "server" if self.what in OF_SERVERS else ""
        return f"{of} {self.number}" if of else ""

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:10.3f} {self.what} {self.number} {self.value}".rstrip() + lasts


class Scenario(msgspec.Struct, frozen=True):
    """A run, before it is run.

    Args:
        seed: Decides all that the steps leave open.
        seconds: How long it lasts.
        clients: How many.
        servers: How many share the database.
        settings: Of the servers: those that differ from the defaults.
        room_bytes: How much a line holds of what nobody reads.
        splits: Whether bytes come in pieces.
        steps: What happens, in order.
        has_ear: Whether servers hear clients by the ear; else each reader waits for its own line.
        answer_seconds: How long answers of the database are under way at most, while others write.
    """

    seed: int
    seconds: float
    clients: int
    servers: int
    settings: dict[str, Any]
    room_bytes: int
    splits: bool
    steps: tuple[Step, ...]
    has_ear: bool = True
    answer_seconds: float = 0.0

    def check(self) -> None:
        """Raise `ValueError` unless it can be played: it may have been written by hand."""
        if min(self.clients, self.servers) < 1:
            raise ValueError("it takes a client and a server")
        for step in self.steps:
            if step.what not in KNOWN_STEPS:
                raise ValueError(f"there is no step {step.what!r}")
            many = self.servers if step.what in OF_SERVERS else self.clients
            if not 0 <= step.number < many:
                raise ValueError(f"step {step} is about one of {many}, from 0 on")


def imagine(
    seed: int, hours: float = HOURS, faults: Sequence[Fault] = FAULTS, clients: int = CLIENTS
) -> Scenario:
    """Return what a seed says.

    Args:
        seed: Any number.
        hours: How long it lasts.
        faults: What breaks: kinds of faults, or some by their names.
        clients: How many.
    """
    own = Random(seed)
    seconds = hours * HOUR
    servers = own.choice([1, 1, 1, 2, 3])
    # Much is found where much happens. A wake-up that is lost is found where little does, and lateness where
    # little breaks, for trouble excuses it.
    pace, trouble = own.choice([0.2, 1.0, 1.0]), own.choice([0.2, 1.0, 1.0])
    often = {what: rate * hours * clients * pace for what, rate in CLIENT_STEPS.items()}
    often |= {what: rate * hours * clients * pace / 10 for what, rate in PROGRAM_STEPS.items()}
    often |= {what: rate * hours for what, rate in RARE_STEPS.items()}
    for kind, rates in FAULT_STEPS.items():
        chosen = {what: rate for what, rate in rates.items() if {kind, what} & {*faults}}
        often |= {what: rate * hours * trouble for what, rate in chosen.items()}
    many = dict.fromkeys(OF_CLIENTS, clients) | dict.fromkeys(OF_SERVERS, servers)
    steps: list[Step] = []
    for what, mean in often.items():
        chance = Random(f"{seed} {what}")  # its own: whatever else there is, it comes at the same moments
        for _ in range(_about(chance, mean)):
            steps += _steps(chance, seconds, what, many)
    settings: dict[str, Any] = {
        "outbox_bytes": own.choice([2000, 10_000, 100_000]),
        "auth": own.choice(["open", "token"]),
        "log_memory_bytes": own.choice([20_000, 1_000_000]),
        # An idle server's looks and pings are most of a run: an hour of the defaults takes some seconds.
        "poll_seconds": own.choice([5.0, 10.0]),
        "expiry_seconds": own.choice([5.0, 10.0]),
        "ping_seconds": own.choice([60.0, 300.0]),
    }
    if settings["auth"] == "token":
        settings["checkout"] = Random(f"{seed} checkout").random() < 0.5  # noqa: PLR2004 - either way
    # Who vanishes is to be found out before the end.
    last = {"vanish": seconds - settings["ping_seconds"]}
    return Scenario(
        seed=seed,
        seconds=seconds,
        clients=clients,
        servers=servers,
        settings=settings,
        room_bytes=own.choice([0, 1000, 20_000]),
        splits=own.choice([True, False, False]),
        steps=tuple(
            sorted(
                (step for step in steps if step.at < last.get(step.what, seconds)), key=lambda step: step.at
            )
        ),
        has_ear=own.choice([True, True, False]),
        answer_seconds=own.choice([0.0, 0.0, 0.05]),
    )


def _about(own: Random, mean: float) -> int:
    """Return a whole number that is so much in the mean."""
    return int(mean) + (own.random() < mean % 1)


def _steps(own: Random, seconds: float, what: str, many: dict[str, int]) -> Iterator[Step]:
    """Say when something happens; of two at once each is a step, so that one can be left out."""
    at, parts = round(own.uniform(0, seconds), 3), what.split("+")
    number = own.randrange(many.get(parts[0], 1))
    for part in parts:
        lasts = round(own.expovariate(0.1) % LONGEST_SECONDS, 3) if part in FAULT_NAMES else 0.0
        value = _VALUES[part](own) if part in _VALUES else ""
        yield Step(at, part, number, lasts, value)
        at = round(at + own.choice([0, 0.001, 0.1]), 3)


def _topic(own: Random) -> str:
    topic = own.choice(
        ["account:1", "account:own", "price:*", f"price:{own.choice(CURRENCIES)}", "invoice", "address"]
    )
    return f"{topic} {_how(own)}".rstrip()


def _how(own: Random) -> str:
    """Return how a topic is followed: from where on, and whether with its snapshot."""
    return own.choice(["", "", "after", "snapshot", "after snapshot"])


_VALUES: dict[str, Callable[[Random], str]] = {
    "create": lambda own: own.choice(["", "", "soon", "long", "webhook"]),
    "change_status": lambda own: own.choice(["confirming", "paid", "unpaid"]),
    "pay": lambda own: own.choice(["pending", "settled", "settled", "failed"]),
    "take_money": lambda own: own.choice(["pending", "settled", "settled", "failed"]),
    "say_price": lambda own: own.choice(CURRENCIES),
    "convert": lambda own: own.choice(CURRENCIES),
    "shop": _how,
    "manage": lambda own: own.choice(MANAGED),
    "manage_webhooks": lambda own: own.choice([*WEBHOOK_STATES, "invoice", *["fetch", "retry"] * 3]),
    "list_events": lambda own: str(own.choice([1, 2, 3, 50])),
    "authenticate": lambda own: own.choice(["", "2", "60", "wrong", "again", "blind"]),
    "break_rules": lambda own: own.choice(BROKEN),
    "follow": _topic,
    "unfollow": _topic,
    "insert": lambda own: own.choice(["", "soon", "address", "webhook"]),
    "update": lambda own: own.choice(["memo", "long memo", "confirming", "paid", "unpaid"]),
    "set_price": lambda own: own.choice(CURRENCIES),
    "delete_price": lambda own: own.choice(CURRENCIES),
    "restore": lambda own: own.choice(["", "and more"]),
    "fail_over": lambda own: own.choice(["whole", "without events", "without numbers"]),
    "crawl": lambda own: str(own.choice([0.01, 0.02, 0.05])),
    "bulk": lambda own: own.choice(["invoices", "versions", "prices"]),
    "hold_open": lambda own: own.choice(["rows", "log"]),
    "cut_off": lambda own: own.choice(["", "trim", "many"]),
    "sessions": lambda own: own.choice(["all", *SESSIONS]),
    "refuse": lambda own: own.choice(GOOD_URLS),
    "dawdle": lambda own: own.choice(GOOD_URLS),
    "break_posts": lambda own: own.choice(GOOD_URLS),
    "slow": lambda own: str(own.choice([0.05, 0.5, 10.0])),
    "delay": lambda own: str(own.choice([0.05, 0.3, 2.0])),
}
