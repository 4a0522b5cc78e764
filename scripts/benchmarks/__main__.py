"""Run the measurements that are named, or all, and print what came out."""

import argparse
import itertools
import json
import resource
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from scripts.benchmarks import (
    chart,
    connections,
    database,
    drain,
    fanout,
    herd,
    hostile,
    latency,
    lists,
    numbering,
    peers,
    report,
    requests,
    servers,
    streams,
    stuck,
    unfollowed,
    webhooks,
)
from scripts.benchmarks.contest import outcomes

CONTESTS = {
    "fanout": fanout.contest,
    "requests": requests.contest,
    "database": database.contest,
    "latency": latency.contest,
    "connections": connections.contest,
    "herd": herd.contest,
    "unfollowed": unfollowed.contest,
}
LINES = {
    "streams": streams.measure,
    "numbering": numbering.measure,
    "stuck": stuck.measure,
    "drain": drain.measure,
    "hostile": hostile.measure,
    "webhooks": webhooks.measure,
    "servers": servers.measure,
    "lists": lists.measure,
}
ROUNDS = 3
OTHERS = (*peers.PEERS, "pgbench")


def main():
    """Run it as a command."""
    given = _parse()
    _allow_many_descriptors()
    lines, compared = {}, {}
    try:
        _measure(given, lines, compared)
    finally:  # what is there is kept, whatever the last one came to
        _keep(given, lines, compared)


def _measure(given, lines, compared):
    """Measure one after the other, and print and note what came out."""
    console = Console(highlight=False, soft_wrap=True)
    for name, size in given.names:
        if name in LINES:
            lines[name] = LINES[name](*[size] if size else [])
            print(f"{name}: {lines[name]}", flush=True)
            continue
        contest = CONTESTS[name](size, given.against, quick=given.quick)
        compared[name] = contest, outcomes(contest, _run(name, contest, given.rounds))
        console.print(report.text(*compared[name]), end="\n\n")


def _keep(given, lines, compared):
    """Write down what came out, and where."""
    surroundings = report.surroundings()
    print(", ".join(f"{what} {value}" for what, value in surroundings.items()))
    if given.json:
        contests = {name: report.data(*outcome) for name, outcome in compared.items()}
        told = {"surroundings": surroundings, "contests": contests, "lines": lines}
        given.json.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    if given.chart:
        given.chart.write_text(chart.draw(compared.values()))


def _parse():
    options = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    options.add_argument(
        "names",
        nargs="*",
        type=_named,
        metavar="NAME[=SIZE]",
        help=f"{', '.join([*CONTESTS, *LINES])}; all. SIZE: how many clients, servers or invoices",
    )
    options.add_argument("--rounds", type=int, help=f"how often each is measured; {ROUNDS}")
    options.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    options.add_argument(
        "--against", type=_others, default=[*OTHERS], metavar="OTHER,…", help=", ".join(OTHERS)
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options.add_argument("--chart", type=Path, metavar="FILE.svg", help="where to draw them")
    given = options.parse_args()
    given.names = given.names or [(name, None) for name in [*CONTESTS, *LINES]]
    given.rounds = given.rounds or (1 if given.quick else ROUNDS)
    return given


def _named(text):
    name, _, size = text.partition("=")
    if name not in CONTESTS and name not in LINES:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join([*CONTESTS, *LINES])}")
    return name, int(size) if size else None


def _others(text):
    names = [name for name in text.split(",") if name]
    if unknown := set(names) - set(OTHERS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(OTHERS)}")
    return names


def _allow_many_descriptors():
    """Raise the limit of open files, for this and what it starts, to what it may be."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _run(name, contest, rounds):
    """Run the rounds, and show on a terminal how far they are."""
    console = Console(stderr=True)
    shown = {"console": console, "disable": not console.is_terminal, "transient": True}
    with Progress(**shown, refresh_per_second=1) as progress:  # it takes time from what is measured
        task = progress.add_task(name, total=rounds * len(contest.contenders))
        measured = itertools.count()

        def step(contender):
            progress.update(task, description=f"{name}: {contender}", completed=next(measured))

        return [contest.run_round(step) for _ in range(rounds)]


if __name__ == "__main__":
    sys.exit(main())
