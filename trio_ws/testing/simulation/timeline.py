"""A run as a picture: time from left to right, a lane for each who acts, faults as bars, the rest as dots."""

import html
from collections.abc import Sequence
from typing import NamedTuple

from trio_ws.testing.simulation.scenario import Scenario, Step

WIDTH, LEFT, LANE, TOP = 1200, 110, 16, 40  # px
TICKS = 10
# What a trace says, and in which colour; the first that fits.
COLOURS = (
    ("is told the end", "#d33"),
    ("is told", "#2a7"),
    ("is answered", "#37c"),
    ("asks", "#9bd"),
    ("has a line", "#444"),
    ("has no line", "#d33"),
    ("was turned away", "#d33"),
)
OTHERS = "#aaa"
STYLE = """text{font:11px sans-serif;fill:#222}.fault{fill:#d33;opacity:.25}.lane{stroke:#eee}
@media(prefers-color-scheme:dark){svg{background:#111}text{fill:#ddd}.lane{stroke:#333}}"""


class Entry(NamedTuple):
    """What a trace says: when, of whom, and what."""

    at: float
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:12.6f} {self.who:<10} {self.what}"


def draw(scenario: Scenario, entries: Sequence[Entry], violation: str | None = None) -> str:
    """Return a run as an SVG."""
    acting = {entry.who for entry in entries} | {f"server {number}" for number in range(scenario.servers)}
    who = sorted(acting - {""}, key=lambda name: (name.startswith("client"), len(name), name))
    lanes = {name: TOP + LANE * place for place, name in enumerate(["all", *who])}
    end = max([entry.at for entry in entries] + [scenario.seconds, 1.0])
    height = TOP + LANE * len(lanes) + LANE
    title = f"seed {scenario.seed}: {violation or 'all is well'}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">',
        f"<style>{STYLE}</style><title>{html.escape(title)}</title>",
        f'<text x="4" y="16">{html.escape(title)}</text>',
    ]
    for tick in range(TICKS + 1):
        at = end * tick / TICKS
        parts.append(f'<text x="{_x(at, end):.0f}" y="{TOP - 10}" text-anchor="middle">{at:.0f} s</text>')
    for name, y in lanes.items():
        parts.append(f'<text x="4" y="{y + 4}">{html.escape(name)}</text>')
        parts.append(f'<line class="lane" x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}"/>')
    parts += [_bar(step, lanes, end) for step in scenario.steps if step.seconds and step.at <= end]
    for entry in entries:
        if entry.who:
            colour = next((colour for text, colour in COLOURS if entry.what.startswith(text)), OTHERS)
            parts.append(
                f'<circle cx="{_x(entry.at, end):.1f}" cy="{lanes[entry.who]}" r="3" fill="{colour}">'
                f"<title>{html.escape(str(entry))}</title></circle>"
            )
    if violation is not None and entries:
        x = _x(entries[-1].at, end)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height}" stroke="#d33"/>')
    return "\n".join([*parts, "</svg>\n"])


def _x(at: float, end: float) -> float:
    return LEFT + (WIDTH - LEFT - 20) * at / end


def _bar(step: Step, lanes: dict[str, int], end: float) -> str:
    """Return a fault: in the lane of its client or server, or in the one of all."""
    y = lanes.get(step.lane, lanes["all"])
    x, until = _x(step.at, end), _x(min(end, step.at + step.seconds), end)
    return (
        f'<rect class="fault" x="{x:.1f}" y="{y - LANE / 2:.0f}" width="{max(2, until - x):.1f}"'
        f' height="{LANE}"><title>{html.escape(str(step))}</title></rect>'
    )
