"""What one seed means: the size of a cluster, its rates of faults, and the list of decisions of the run.

Everything of a run is decided by this record and by the streams of chance of its components, each with a name of its
own: another draw in one of them does not move the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from hsu_core.model.node import DEFAULT_TIMES

NODE_TIMES = DEFAULT_TIMES
LEADER_TTL_S = 5.0
"""The times of a cluster as people get it."""

WARM_UP_S = 40.0
"""After this a cluster without faults has to stand as it is wanted."""


def stream(seed: int, name: str) -> Random:
    """Return the chance of one component."""
    return Random(f"{seed}/{name}")


@dataclass(frozen=True, slots=True)
class Decision:
    """A fault, or what a person does. `kind` names a method of `Faults` or `Workload`; times in seconds."""

    at_s: float
    kind: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at_s:8.3f} {self.kind}{self.arguments}"


@dataclass(frozen=True, slots=True)
class Options:
    """A whole run. Rates are probabilities of one call, as TigerBeetle draws them for each seed."""

    seed: int
    masters: int = 3
    nodes: int = 5
    slow: float = 0.0
    lost_before: float = 0.0
    lost_after: float = 0.0
    refused: float = 0.0
    spawn_failures: float = 0.0
    net_delay_s: float = 0.003
    fault_phase_s: float = 100.0
    is_calm: bool = False
    """Whether workers end only when they are told to."""

    loses_unsynced: bool = True
    """Whether a host that falls loses the tail of its agent's ledger."""

    decisions: tuple[Decision, ...] = field(default=(), repr=False)

    def text(self) -> str:
        """Return all of it, for a person who looks for what went wrong."""
        return "\n".join([repr(self), *map(str, self.decisions)])


FAULTS = {
    "cut_node": 5, "cut_half": 4, "cut_store": 3, "store_outage": 2, "elect": 2, "agent_crash": 5, "agent_stop": 4,
    "host_fall": 4, "master_crash": 4, "master_stop": 4, "master_end": 2, "watch_lag": 2, "compact": 3, "clock": 3,
    "kill_workers": 3, "flap": 1,
}  # fmt: skip
"""Faults and how often each is drawn."""

ACTS = {"deploy": 6, "scale": 4, "restart": 2, "stop": 1, "start": 2, "undo": 2, "drain": 2, "uncordon": 3, "remove": 1}
"""What people do and how often."""


def draw(seed: int, *, faults: dict[str, int] | None = None, acts: dict[str, int] | None = None) -> Options:
    """Return the run of a seed; `faults` and `acts` limit what is drawn."""
    rng = stream(seed, "options")
    faults = FAULTS if faults is None else faults
    acts = ACTS if acts is None else acts
    masters, nodes = rng.choice((1, 2, 3, 3, 3)), rng.randint(3, 6)
    phase_s = rng.choice((60.0, 100.0, 150.0))
    kinds: list[Decision] = []
    for _ in range(rng.randint(3, 16) if faults else 0):
        kinds.append(_fault(rng, rng.choices(*zip(*faults.items(), strict=True))[0], masters, nodes, phase_s))
    number = 1
    for _ in range(rng.randint(3, 12) if acts else 0):
        number += 1
        kind = rng.choices(*zip(*acts.items(), strict=True))[0]
        kinds.append(Decision(WARM_UP_S + rng.uniform(0, phase_s), kind, (number, rng.randrange(10**6))))
    is_lossy = rng.random() < 0.6 and bool(faults)
    return Options(
        seed, masters, nodes,
        slow=rng.uniform(0, 0.05) if is_lossy else 0.0,
        lost_before=rng.uniform(0, 0.02) if is_lossy else 0.0,
        lost_after=rng.uniform(0, 0.03) if is_lossy else 0.0,
        refused=rng.uniform(0, 0.05) if is_lossy else 0.0,
        spawn_failures=rng.choice((0.0, 0.0, 0.05, 0.2)) if faults else 0.0,
        net_delay_s=rng.choice((0.001, 0.003, 0.05)),
        fault_phase_s=phase_s,
        decisions=tuple(sorted(kinds, key=lambda decision: decision.at_s)),
    )  # fmt: skip


def _fault(rng: Random, kind: str, masters: int, nodes: int, phase_s: float) -> Decision:
    node = f"node-{rng.randrange(nodes) + 1}"
    master = rng.choice(["leader", "leader", *(f"master-{number + 1}" for number in range(masters))])
    short_s, long_s = rng.uniform(0.5, 6.0), rng.uniform(6.0, 40.0)
    time_s = rng.choice((short_s, long_s))
    arguments: dict[str, tuple[Any, ...]] = {
        "cut_node": (node, rng.choice(("both", "in", "out")), time_s),
        "cut_half": (node, master, rng.choice(("both", "in", "out")), time_s),
        "cut_store": (master, time_s),
        "store_outage": (time_s,),
        "elect": (rng.uniform(0.5, 2.0),),
        "agent_crash": (node, rng.choice((0.0, 0.5))),
        "agent_stop": (node, time_s),
        "host_fall": (node, rng.uniform(2.0, 40.0)),
        "master_crash": (master, rng.uniform(0.5, 20.0)),
        "master_stop": (master, rng.uniform(0.5, 20.0)),
        "master_end": (master, rng.uniform(0.5, 20.0)),
        "watch_lag": (master, rng.choice((0.5, 2.0, 60.0)), time_s),
        "compact": (),
        "clock": (rng.choice((node, master)), rng.choice((-3e8, -7200.0, -1.0, 1.0, 3600.0, 3e8))),
        "kill_workers": (node, rng.uniform(0.2, 1.0)),
        "flap": (node, rng.uniform(1.0, 8.0), rng.randint(2, 8)),
    }
    return Decision(WARM_UP_S + rng.uniform(0, phase_s), kind, arguments[kind])
