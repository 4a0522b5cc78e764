"""The simulator: hours of servers, clients and faults in seconds, each run a seed's and the same again.

    outcome = play(imagine(seed=7, hours=2.0))
    assert outcome.violation is None

`trio-ws simulate` plays many. `scenario.py` says what is to happen, and `actors.py` does it. `client.py` is
a client: `credentials.py` says who it is, `following.py` what it follows, `asking.py` what else it asks for,
and `managing.py` what it manages. `truth.py` knows what clients must be told, `deliveries.py` what receivers
of webhooks must get, `run.py` brings them together. `chance.py` makes a seed decide all that is random,
`shrink.py` finds the few steps that matter, and `timeline.py` draws them.

**How it stays the same.** No wall clock (the simulated database's is trio's), no thread, no socket, and no
order that comes of addresses in memory: dictionaries stand in for ordered sets. Whoever needs chance has a
`Random` of the seed and a name, so that a step that is left out changes nothing for the others.

**How to read a trace.** A line is a moment in seconds, who acts, and what. Without a name it is a step of
the scenario, with its number, its value, and how long it lasts; `client 7 asks …` and `is answered …` are a
request and its reply, `is told …` an event with its position, `has a line` and `has no line` what they say.
Begin at the end, where the violation is, and look for the last fault before it that bears that client's
number or none.

**Which faults there are.** `FAULT_STEPS` lists them by what breaks, with how often an hour each comes, and
`Actors` says beside each what it does. `trio-ws simulate --faults servers` plays all of a kind, and
`--faults crawl --faults hang_up` some by name. Each has chance of its own: whatever else is chosen, it comes
at the same moments.

* clients: `pause` reads nothing, `leave` says goodbye, `hang_up` does not, `vanish` tells nobody; `revoke`
  ends its token, and `break_rules` sends what no client may.
* network: `cut`, `hold` and `delay`, of a client's line.
* database: `away`, `slow`, `deaf` (notifications are lost), `lose_answers`, `trim`; `restore` of a backup,
  and perhaps others take the numbers of what was lost; `fail_over` to a standby that is whole, or lacks the
  last events, or their numbers; `clone`, a copy that takes over and goes on by itself, and then the first one
  again; `crawl`, where each row and KB takes its time, so that the statement timeout ends what asks for much.
* programs: `bulk`, 5 000 changes in one transaction; `hold_open`, a transaction that stays open, which others
  wait for: for its rows, or for the log that it is numbering.
* servers: `kill`, `stop` and `reload` are signals; `cut_off`, one server alone without the database, while
  others go on and trim; `descriptors`, none is left; `sessions`, they end, and PostgreSQL has none left for
  one lane or for any; `trickle`, the kernel takes a part of what is sent. Two at once, or nearly so, are
  joined by `+`, as in `descriptors+sessions`: each is a step, so shrinking leaves out the one that is not
  needed.
* receivers of webhooks: `refuse` answers 500, `dawdle` takes seconds, perhaps more than it has, and
  `break_posts` breaks the line, each at one URL; `crowd` gives one account hundreds of slow endpoints, which
  keep no other account waiting. One URL takes nothing before the end.

**Which clients there are.** In half of the seeds each needs a token. Most are merchants, and see their own
account alone. One of twelve is an operator: it sees all, makes and revokes the others' tokens, and closes
their connections, and they miss nothing. Where the setting `checkout` is on, another one of twelve is a
customer: it has no token, fetches and follows invoices, and sees of them what a customer may (`View` in
`truth.py`). If it authenticates, it is a merchant until its line ends. In the other half of the seeds each
client may do what operators may. Some clients follow hundreds of topics; all of them send some requests in
fragments, and some in one piece.

**How to write a fault.** A method of `Actors`, a row of `FAULT_STEPS`, and a bug in
`tests/testing/test_world_faults.py` that it alone finds. It takes the step, which says for how long, and
undoes at the end what it has done; it says whom it troubles, and so for how long lateness is excused. Nothing
excuses what is lost, doubled, out of order or not asked for.
"""

from trio_ws.testing.simulation.run import Outcome, play
from trio_ws.testing.simulation.scenario import Scenario, Step, imagine
from trio_ws.testing.simulation.shrink import shrink

__all__ = ["Outcome", "Scenario", "Step", "imagine", "play", "shrink"]
