"""Run the measurements that are named, or all, and print a line for each."""

import sys

from scripts.benchmarks import latency, numbering, stuck

MEASUREMENTS = {"latency": latency.measure, "numbering": numbering.measure, "stuck": stuck.measure}

names = sys.argv[1:] or list(MEASUREMENTS)
if unknown := set(names) - set(MEASUREMENTS):
    sys.exit(f"bench: {', '.join(unknown)} is none of {', '.join(MEASUREMENTS)}")
for name in names:
    print(f"{name}: {MEASUREMENTS[name]()}", flush=True)
