"""Run the measurements that are named, or all, and print a line for each."""

import sys

from scripts.benchmarks import drain, herd, latency, numbering, stuck

MEASUREMENTS = {
    "latency": latency.measure,
    "numbering": numbering.measure,
    "stuck": stuck.measure,
    "herd": herd.measure,
    "drain": drain.measure,
}

wanted = [argument.partition("=") for argument in sys.argv[1:] or MEASUREMENTS]
if unknown := {name for name, _, _ in wanted} - set(MEASUREMENTS):
    sys.exit(f"bench: {', '.join(unknown)} is none of {', '.join(MEASUREMENTS)}")
for name, _, size in wanted:
    print(f"{name}: {MEASUREMENTS[name](*[int(size)] if size else [])}", flush=True)
