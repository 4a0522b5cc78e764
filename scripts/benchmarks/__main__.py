"""Run the measurements that are named, or all, and print what came out."""

import argparse
import json
import resource
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from scripts.benchmarks import (
    chart,
    database,
    drain,
    fanout,
    herd,
    latency,
    memory,
    numbering,
    peers,
    report,
    requests,
    stuck,
)
from scripts.benchmarks.contest import outcomes

CONTESTS = {
    "fanout": fanout.contest,
    "requests": requests.contest,
    "database": database.contest,
    "memory": memory.contest,
}
LINES = {
    "latency": latency.measure,
    "numbering": numbering.measure,
    "stuck": stuck.measure,
    "herd": herd.measure,
    "drain": drain.measure,
}
ROUNDS = 3
OTHERS = (*peers.PEERS, "pgbench")


def main():
    """Run it as a command."""
    given = _parse()
    _allow_many_descriptors()
    console = Console(highlight=False, soft_wrap=True)
    lines, compared = {}, {}
    for name, size in given.names:
        if name in LINES:
            lines[name] = LINES[name](*[size] if size else [])
            print(f"{name}: {lines[name]}", flush=True)
            continue
        contest = CONTESTS[name](size, given.against, quick=given.quick)
        compared[name] = contest, outcomes(contest, _run(contest, given.rounds))
        console.print(report.text(*compared[name]), end="\n\n")
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
        help=f"{', '.join([*CONTESTS, *LINES])}; all. SIZE: how many clients",
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


def _run(contest, rounds):
    """Run the rounds, and show on a terminal how far they are."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=rounds * len(contest.contenders))
        done = []
        for number in range(1, rounds + 1):

            def step(name, number=number):
                progress.update(task, description=f"round {number}: {name}")
                progress.advance(task)

            done.append(contest.run_round(step))
    return done


if __name__ == "__main__":
    sys.exit(main())
