"""The outcomes as bars, in SVG."""

from html import escape

from scripts.benchmarks.contest import OURS
from scripts.benchmarks.report import short

COLOURS = {OURS: "#d55e00", "bare C": "#999999"}  # Okabe and Ito's, for all eyes
COLOUR_OF_OTHERS = "#0072b2"
COLUMN, NAMES, BAR = 570, 130, 250  # widths
ROW, HEAD = 20, 44  # heights
MARGIN = 24


def draw(compared):
    """Return a chart of contests and their outcomes: a panel for each case with others in it."""
    panels = [
        (contest.title, f"{case}, {contest.cases[case]}", outcomes)
        for contest, results in compared
        for case, outcomes in results.items()
        if len(outcomes) > 1
    ]
    lows = [MARGIN, MARGIN]
    parts = []
    for title, case, outcomes in panels:
        column = lows.index(min(lows))
        parts.append(_panel(MARGIN + column * COLUMN, lows[column], title, case, outcomes))
        lows[column] += HEAD + ROW * len(outcomes) + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * COLUMN + MARGIN}" height="{max(lows)}"'
        ' font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _panel(left, top, title, case, outcomes):
    # The longest bar is that of the most but for bare C, which may be beyond all others: its bar is cut off.
    most = max(outcome.figure for name, outcome in outcomes.items() if name != "bare C")
    parts = [
        f'<text x="{left}" y="{top + 12}" fill="#666" font-size="11">{escape(title)}</text>',
        f'<text x="{left}" y="{top + 30}" font-weight="bold">{escape(case)}</text>',
    ]
    for place, (name, outcome) in enumerate(outcomes.items()):
        y = top + HEAD + place * ROW
        width = BAR * min(1, outcome.figure / most)
        figure = ("» " if outcome.figure > most else "") + short(outcome.figure)
        if outcome.ratio is not None:
            figure += f"; ours {short(outcome.ratio)} ×"
        colour = COLOURS.get(name, COLOUR_OF_OTHERS)
        parts += [
            f'<text x="{left + NAMES - 8}" y="{y + 11}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left + NAMES}" y="{y}" width="{width:.1f}" height="{ROW - 6}" fill="{colour}"/>',
            f'<text x="{left + NAMES + width + 6:.1f}" y="{y + 11}">{figure}</text>',
        ]
    return "".join(parts)
