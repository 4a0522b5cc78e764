"""`trio-ws simulate`: hours of servers, clients and faults, a seed after the other, until one fails."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trio_ws.errors import StartupError
from trio_ws.testing.simulation import play, shrink
from trio_ws.testing.simulation.scenario import CLIENTS, FAULTS, HOUR, HOURS, Fault, Scenario, imagine
from trio_ws.testing.simulation.timeline import Entry, draw

LAST_ENTRIES = 40
RUNS = 40  # what CI plays: they find the bugs that are planted in turn


def simulate(
    *,
    seeds: PositiveInt = RUNS,
    seed: int | None = None,
    first: int = 0,
    hours: PositiveFloat = HOURS,
    clients: PositiveInt = CLIENTS,
    faults: Annotated[list[Fault | Literal["all", "none"]] | None, Parameter(negative_iterable=())] = None,
    replay: Annotated[Path | None, Parameter(show_default=False)] = None,
    save: Annotated[Path | None, Parameter(show_default=False)] = None,
    trace: bool = False,
    shrink: bool = True,
    plot: Annotated[Path | None, Parameter(show_default=False)] = None,
) -> None:
    """Simulate hours of servers, clients and faults, and check what each client receives.

    The first seed that fails is shrunk to few steps, its last events are printed, and the exit status is 1.

    Args:
        seeds: How many seeds.
        seed: This one alone.
        first: The first of them.
        hours: How long each is, in simulated hours.
        clients: How many there are.
        faults: What breaks: a kind of faults, or some of them by name; all, or none.
        replay: A file that `--save` wrote, in place of seeds.
        save: Where the scenario that fails goes, shrunk, as JSON; or the last one.
        trace: Print all that happens.
        shrink: Look for a few steps that are enough for what fails, which takes up to 200 runs.
        plot: Where a picture of the last run goes, as SVG.
    """
    given = faults or ["all"]
    chosen = FAULTS if "all" in given else [fault for fault in given if fault != "none"]
    if replay is not None:
        scenarios = [_read(replay)]
    else:
        numbers = range(first, first + seeds) if seed is None else [seed]
        scenarios = [imagine(number, hours, chosen, clients) for number in numbers]
    failed = _play_all(scenarios, trace=trace)
    last = failed or scenarios[-1]
    if failed is not None and shrink:
        last = _shrink(failed)
    if save is not None:
        save.write_bytes(msgspec.json.format(msgspec.json.encode(last)))
    if failed is not None or plot is not None:
        entries: list[Entry] = []
        violation = play(last, lambda *entry: entries.append(Entry(*entry))).violation
        if failed is not None:
            _show(last, entries, violation, has_shrunk=shrink)
        if plot is not None:
            plot.write_text(draw(last, entries, violation))
    if failed is not None:
        sys.exit(1)


def _read(path: Path) -> Scenario:
    try:
        scenario = msgspec.json.decode(path.read_bytes(), type=Scenario)
        scenario.check()
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise StartupError(f"can't read {path}: {error}") from None
    return scenario


def _play_all(scenarios: list[Scenario], *, trace: bool) -> Scenario | None:
    """Play scenarios until one fails, and return that."""
    simulated = events = 0.0
    columns = (
        TextColumn("seed {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(scenarios))
        for scenario in scenarios:
            progress.update(task, description=str(scenario.seed))
            outcome = play(scenario, _print if trace else _ignore)
            if outcome.violation is not None:
                return scenario
            simulated += scenario.seconds * scenario.clients / HOUR
            events += outcome.events
            progress.advance(task)
        seconds = progress.tasks[0].finished_time or progress.tasks[0].elapsed or 0.0
    print(
        f"{len(scenarios)} seeds, {simulated:.0f} client-hours in {seconds:.0f} s, {events:.0f} events told:"
        " each once, in order, whole and in time"
    )
    return None


def _shrink(failed: Scenario) -> Scenario:
    with Progress(TextColumn("shrinking"), BarColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def fails(shorter: Scenario) -> bool:
            bar.advance(task)
            return play(shorter).violation is not None

        return shrink(failed, fails)


def _show(scenario: Scenario, entries: list[Entry], violation: str | None, *, has_shrunk: bool) -> None:
    for entry in entries[-LAST_ENTRIES:]:
        print(entry)
    print(f"seed {scenario.seed} fails: {violation}")
    if has_shrunk:
        print(f"{len(scenario.steps)} steps are enough for it:")
        for step in scenario.steps:
            print(step)


def _print(at: float, who: str, what: str) -> None:
    print(Entry(at, who, what))


def _ignore(_: float, __: str, ___: str) -> None:
    pass
