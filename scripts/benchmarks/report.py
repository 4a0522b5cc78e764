"""What came out, as tables for people and as JSON for programs."""

from rich.table import Table


def table(contest, results):
    """Return a table: for each case, ours and the others, the spread of the rounds, ratios and goals."""
    drawn = Table(title=contest.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    drawn.add_column("", no_wrap=True)
    for name in ("median", "rounds", "ours : it", "to reach"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for case, outcomes in results.items():
        drawn.add_row(f"[bold]{case}, {contest.cases[case].unit}[/]")
        for name, outcome in outcomes.items():
            ratio = "" if outcome.ratio is None else f"{short(outcome.ratio)} ×"
            drawn.add_row(f"  {name}", short(outcome.figure), _spread(outcome.figures), ratio, _goal(outcome))
    return drawn


def short(figure):
    """Return a figure with as many digits as mean something."""
    digits = 0 if abs(figure) >= 100 else 1 if abs(figure) >= 10 else 2
    return f"{figure:,.{digits}f}"


def _spread(figures):
    return f"{short(min(figures))} – {short(max(figures))}" if len(figures) > 1 else ""


def _goal(outcome):
    if outcome.goal is None:
        return ""
    colour, mark = ("green", "✓") if outcome.is_met else ("red", "✗")
    return f"[{colour}]{outcome.goal} {mark}[/]"


def as_data(contest, results):
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
