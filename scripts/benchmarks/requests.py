"""Requests and their replies: ours decodes JSON and notes who follows what; peers send a text back."""

import json
from functools import partial

from scripts.benchmarks import load, peers
from scripts.benchmarks.contest import OURS, Case, Contest, Goal, present
from scripts.benchmarks.target import serving

CONNECTIONS = 50
SECONDS = 1.5  # for each case
WARM_UP_SECONDS = 0.3  # Python adapts its code to what it does
IN_FLIGHT = (1, 8)
REQUESTS = {
    "ping": json.dumps({"action": "ping"}, separators=(",", ":")),
    "subscribe": json.dumps(
        {"action": "subscribe", "type": "invoice", "id": "6f1f3a52-5d23-45a5-9752-8fac97aec2d6"},
        separators=(",", ":"),
    ),
}

RATES = {
    ("ping", 1): {"aiohttp": Goal("≥", 0.9), "websockets": Goal("≥", 1.3)},
    ("ping", 8): {"aiohttp": Goal("≥", 1.2)},
}
COSTS = {("subscribe", 1): {"aiohttp": Goal("≤", 1.5)}}


def contest(connections, wanted, *, quick):
    """Return it."""
    connections = connections or CONNECTIONS
    measure = partial(_measure, connections, SECONDS / 5 if quick else SECONDS)
    names, absent = present(wanted)
    cases = [(request, in_flight) for request in REQUESTS for in_flight in IN_FLIGHT]
    return Contest(
        f"requests: {connections} connections",
        {_rate(*case): Case("replies/s", "more", RATES.get(case, {})) for case in cases}
        | {_cost(*case): Case("µs of CPU", "less", COSTS.get(case, {})) for case in cases},
        {OURS: lambda: _measure_ours(measure)}
        | {name: partial(_measure_peer, name, measure) for name in names},
        absent,
    )


def _rate(request, in_flight):
    return f"{request}, {in_flight} in flight"


def _cost(request, in_flight):
    return f"{request}, {in_flight} in flight: cost"


def _measure_ours(measure):
    with serving(requests_per_second="none", requests_burst="none") as target:
        return measure(target)


def _measure_peer(name, measure):
    with peers.running(name) as target:
        return measure(target)


def _measure(connections, seconds, target):
    load.ask(target, [REQUESTS["ping"]], connections=connections, in_flight=1, seconds=WARM_UP_SECONDS)
    figures = {}
    for request, text in REQUESTS.items():
        for in_flight in IN_FLIGHT:
            told = load.ask(target, [text], connections=connections, in_flight=in_flight, seconds=seconds)
            figures[_rate(request, in_flight)] = told["rate"]
            figures[_cost(request, in_flight)] = told["cost"] * 1e6
    return figures
