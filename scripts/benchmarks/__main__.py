"""Run the measurements that are named, or all, and print what came out."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from scripts.benchmarks import drain, fanout, herd, latency, numbering, peers, report, requests, stuck
from scripts.benchmarks.contest import outcomes

CONTESTS = {"fanout": fanout.contest, "requests": requests.contest}
LINES = {
    "latency": latency.measure,
    "numbering": numbering.measure,
    "stuck": stuck.measure,
    "herd": herd.measure,
    "drain": drain.measure,
}
ROUNDS = 3


def main():
    """Run it as a command."""
    given = _parse()
    console = Console()
    told = {}
    for name, size in given.names:
        if name in LINES:
            told[name] = LINES[name](*[size] if size else [])
            print(f"{name}: {told[name]}", flush=True)
            continue
        contest = CONTESTS[name](size, given.against, quick=given.quick)
        results = outcomes(contest, _run(contest, given.rounds))
        told[name] = report.as_data(contest, results)
        console.print(report.table(contest, results))
        for absent, reason in contest.absent.items():
            console.print(f"{absent} is left out: {reason}")
        console.print()
    if given.json:
        given.json.write_text(json.dumps(told, indent=2) + "\n")


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
        "--against", type=_peers, default=[*peers.PEERS], metavar="PEER,…", help=", ".join(peers.PEERS)
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    given = options.parse_args()
    given.names = given.names or [(name, None) for name in [*CONTESTS, *LINES]]
    given.rounds = given.rounds or (1 if given.quick else ROUNDS)
    return given


def _named(text):
    name, _, size = text.partition("=")
    if name not in CONTESTS and name not in LINES:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join([*CONTESTS, *LINES])}")
    return name, int(size) if size else None


def _peers(text):
    names = [name for name in text.split(",") if name]
    if unknown := set(names) - set(peers.PEERS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(peers.PEERS)}")
    return names


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
