"""What `/metrics` says, of one server or of several together, and what changed between two looks at it."""

import bisect
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
Samples = dict[str, dict[Labels, float]]  # by name, then by labels


def parse(text: str) -> Samples:
    """Return what Prometheus' text format says.

    Raises:
        ValueError: it is none.
    """
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def together(parts: Iterable[Samples]) -> Samples:
    """Return the sums of several servers' samples."""
    found: Samples = {}
    for samples in parts:
        for name, values in samples.items():
            known = found.setdefault(name, {})
            for labels, value in values.items():
                known[labels] = known.get(labels, 0.0) + value
    return found


class Change(NamedTuple):
    """Two looks, and the seconds between them."""

    before: Samples
    now: Samples
    seconds: float

    def level(self, name: str) -> float:
        """Return how much there is now, whatever the labels."""
        return sum(self.now.get(name, {}).values())

    def rate(self, name: str) -> float:
        """Return by how much it grew in a second, whatever the labels."""
        return sum(self._grown(name).values()) / self.seconds

    def rates(self, name: str, label: str) -> dict[str, float]:
        """Return the same by the value of one label, the fastest first; what stood still is left out."""
        found: dict[str, float] = {}
        for labels, grown in self._grown(name).items():
            value = dict(labels).get(label, "")
            found[value] = found.get(value, 0.0) + grown / self.seconds
        return dict(sorted(((v, r) for v, r in found.items() if r > 0), key=lambda item: -item[1]))

    def quantile(self, name: str, share: float, **labels: str) -> float | None:
        """Return what a share of a histogram's new observations did not exceed; None: there were none."""
        buckets: dict[float, float] = {}
        for found, grown in self._grown(f"{name}_bucket").items():
            if labels.items() <= dict(found).items():
                edge = float(dict(found)["le"])
                buckets[edge] = buckets.get(edge, 0.0) + grown
        return quantile(buckets, share)

    def _grown(self, name: str) -> dict[Labels, float]:
        before = self.before.get(name, {})
        # A restarted server counts from 0, and what it has counted since has grown.
        return {
            labels: value - before.get(labels, 0.0) if value >= before.get(labels, 0.0) else value
            for labels, value in self.now.get(name, {}).items()
        }


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Return a quantile of a histogram, as Prometheus' `histogram_quantile` does.

    Args:
        buckets: For each upper edge, how many observations were not above it; the last one is infinity.
        share: Of all observations, from 0 to 1.
    """
    edges = sorted(buckets)
    counts = [buckets[edge] for edge in edges]
    if not counts or counts[-1] <= 0:
        return None
    wanted = share * counts[-1]
    place = min(bisect.bisect_left(counts, wanted), len(counts) - 1)
    if place == len(counts) - 1:  # above the last edge that is a number, nobody knows how far
        return edges[place - 1] if place else None
    below, from_ = (counts[place - 1], edges[place - 1]) if place else (0.0, 0.0)
    inside = counts[place] - below
    return from_ + (edges[place] - from_) * ((wanted - below) / inside if inside else 1.0)


def sparkline(values: Iterable[float | None]) -> str:
    """Return a line of blocks as high as the values; blank where there is none."""
    known = list(values)
    most = max((value for value in known if value is not None), default=0.0)
    steps = "▁▂▃▄▅▆▇█"
    return "".join(
        " " if value is None else steps[min(int(value / most * len(steps)), len(steps) - 1) if most else 0]
        for value in known
    )
