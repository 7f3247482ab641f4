"""The faults that are measured, in the words of the guide, with the figures of others. Data only.

Figures of Nomad: version 1.1.2, measured before on a busy machine of 2 processors, all agents on loopback, `raw_exec`.
Figures of Swarm that are not measured in the same run: its documented timers, and its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One fault: its name for people, what counts as recovered, and what others need (empty: no figure)."""

    fault: str
    recovered: str
    nomad: str = ""
    swarm: str = ""


CATALOGUE: Mapping[str, Row] = {
    "worker-kill": Row("a worker is killed", "another process runs", "0.10 s (worst 0.47)", "5 s delay"),
    "agent-kill": Row(
        "the agent is killed, and one of its workers", "the worker runs again", "agent started by hand; PIDs kept"
    ),
    "agent-hang": Row("the agent hangs (stopped by a signal)", "its instances run elsewhere", "26.7 s", "15 s + start"),
    "node-kill": Row(
        "a host dies with all that runs on it", "its instances run elsewhere", "19.1–21.3 s", "15 s + start"
    ),
    "leader-kill": Row(
        "the leader is killed", "a deploy made at once is placed and runs", "2.6–3.1 s to accept", "10–20 s"
    ),
    "leader-stop": Row("the leader is stopped cleanly", "a deploy made at once is placed and runs"),
    "leader-hang": Row("the leader hangs (stopped by a signal)", "a deploy made at once is placed and runs"),
    "leader-and-node": Row(
        "leader and a host die together", "the host's instances run elsewhere", "304 s", "30 s grace"
    ),
    "masters-kill": Row("every master is killed, and started again", "a deploy is placed and runs"),
    "etcd-leader-kill": Row("the leader of etcd is killed", "a deploy made at once is accepted"),
    "etcd-quorum": Row("two of three etcd members die for 10 s", "a deploy is placed, counted from their return"),
}
