"""Ours beside others, each measured in turn, round after round.

On a machine whose speed drifts, only what was measured side by side can be compared.
"""

import operator
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scripts.benchmarks import peers
from scripts.benchmarks.load import LoadFailed

OURS = "ours"
COMPARED = {"≤": operator.le, "≥": operator.ge}


@dataclass(frozen=True)
class Goal:
    """What to reach: `Goal("≤", 1.35)`."""

    sign: str
    limit: float

    def is_met(self, figure):
        """Tell whether the figure is one to be content with."""
        return COMPARED[self.sign](figure, self.limit)

    def __str__(self):
        return f"{self.sign} {self.limit:g}"


@dataclass(frozen=True)
class Case:
    """One thing that is measured.

    Args:
        unit: What figures are in.
        better: Whether "more" or "less" of it is.
        goals: What ours is to be, in multiples of another's; of ours itself, in the unit.
    """

    unit: str
    better: str
    goals: Mapping[str, Goal] = field(default_factory=dict)

    def __str__(self):
        return f"{self.unit}, {self.better} is better"


@dataclass(frozen=True)
class Contest:
    """What is compared.

    Args:
        title: What it is about.
        cases: What is measured, by name.
        contenders: Who takes part, ours first, and how each is measured: a function that returns a figure
            for each case, or for some.
        absent: Who does not, and why; whom the load was too much for joins them.
    """

    title: str
    cases: Mapping[str, Case]
    contenders: Mapping[str, Callable[[], Mapping[str, float]]]
    absent: dict[str, str] = field(default_factory=dict)

    def run_round(self, step):
        """Measure each once; return the figures by case and contender.

        Args:
            step: Called with a contender's name before it is measured.
        """
        figures = {case: {} for case in self.cases}
        for name, measure in self.contenders.items():
            step(name)
            try:
                measured = measure()
            except LoadFailed as error:
                if name == OURS:
                    raise
                self.absent[name] = str(error)
                continue
            for case, figure in measured.items():
                figures[case][name] = figure
        return figures


@dataclass(frozen=True)
class Outcome:
    """What came out for one contender in one case.

    Args:
        figures: One of each round.
        ratios: Ours divided by this one's, of each round.
        goal: What ours is to reach.
    """

    figures: list[float]
    ratios: list[float]
    goal: Goal | None

    @property
    def figure(self):
        """The median of the rounds."""
        return statistics.median(self.figures)

    @property
    def ratio(self):
        """The median of the rounds; None of ours itself."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def is_met(self):
        """Whether the goal is; None: there is none."""
        return self.goal and self.goal.is_met(self.figure if self.ratio is None else self.ratio)


def outcomes(contest, rounds):
    """Return what came out of the rounds: by case, for each contender."""
    return {
        case: {
            name: Outcome(
                [one[case][name] for one in rounds],
                [one[case][OURS] / one[case][name] for one in rounds if name != OURS and one[case][name]],
                contest.cases[case].goals.get(name),
            )
            for name in contest.contenders
            if name not in contest.absent and name in rounds[0][case]  # a case may be ours alone
        }
        for case in contest.cases
    }


def present(wanted):
    """Return the peers of those wanted that are there, and why others are not."""
    why = {name: peers.missing(name) for name in wanted if name in peers.PEERS}
    return [name for name in why if not why[name]], {name: reason for name, reason in why.items() if reason}
