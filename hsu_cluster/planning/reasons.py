"""Why an instance has no node: one sentence, per filter how many nodes it took out. Pure.

Reads the same `misfit` and conditions as the placement itself, so that a reason never contradicts it.
"""

from __future__ import annotations

from collections.abc import Callable

from hsu_cluster.planning.constraints import CAN_FENCE, fault, first_failing
from hsu_cluster.planning.node_table import Demand, Filter, NodeEntry, NodeTable, dynamic_ports_free, misfit
from hsu_core.model.quantity import format_cpu, format_size

NAMES_SHOWN = 3
"""Node names listed per reason: enough to start looking, short enough for one line."""


def unplaced_reason(
    table: NodeTable, demand: Demand, *, is_patient: bool = False, avoided: frozenset[str] = frozenset()
) -> str:
    """Return the sentence for one more instance of `demand`, each node counted under the first filter it fails.

    `is_patient`: nodes that cool down or are avoided are not taken, so they are named too.
    """
    if not table.entries:
        return "no node has joined the cluster (start `hsu-agent run` on a host)"
    total = len(table.entries)
    closed: dict[str, list[NodeEntry]] = {}
    unmatched: dict[str, list[NodeEntry]] = {}
    misfits: dict[Filter, list[NodeEntry]] = {}
    for entry in table.entries:
        if entry.closed_why:
            closed.setdefault(entry.closed_why, []).append(entry)
        elif (constraint := first_failing(demand.constraints, entry.facts)) is not None:
            why = entry.facts["node.fence-why"] if constraint == CAN_FENCE else fault(constraint)
            unmatched.setdefault(f"`{constraint}`" + (f" ({why})" if why else ""), []).append(entry)
        elif (lacking := misfit(entry, demand)) is not None:
            misfits.setdefault(lacking, []).append(entry)
        elif is_patient and (entry.cooling_until_s or entry.name in avoided):
            why = _COOLING if entry.cooling_until_s else "avoided, as this revision kept failing there"
            closed.setdefault(why, []).append(entry)
    parts = [f"{_count(nodes, total)} {_be(nodes)} {why}{_names(nodes)}" for why, nodes in sorted(closed.items())]
    parts += [f"{_count(nodes, total)} {_do(nodes)} not match {text}" for text, nodes in sorted(unmatched.items())]
    parts += [
        f"{_count(misfits[kind], total)} {_PHRASES[kind](misfits[kind], demand)}" for kind in Filter if kind in misfits
    ]
    return "; ".join(parts)


_COOLING = "cooling down, as it was lost and has just come back"


def _cpu(nodes: list[NodeEntry], demand: Demand) -> str:
    best = min(nodes, key=lambda entry: (-entry.cpu_free, entry.name))
    return (
        f"{_lack(nodes)} {format_cpu(demand.cpu_milli)} of free cpu ({_most(best, format_cpu(max(0, best.cpu_free)))})"
    )


def _memory(nodes: list[NodeEntry], demand: Demand) -> str:
    best = min(nodes, key=lambda entry: (-entry.memory_free, entry.name))
    free = format_size(max(0, best.memory_free))
    return f"{_lack(nodes)} {format_size(demand.memory_bytes)} of free memory ({_most(best, free)})"


def _fixed_port(nodes: list[NodeEntry], demand: Demand) -> str:
    taken = sorted({port for port in demand.fixed_ports if any(port in entry.ports for entry in nodes)})
    word = "port" if len(taken) == 1 else "ports"
    return f"{_have(nodes)} {word} {', '.join(map(str, taken))} in use{_names(nodes)}"


def _dynamic_ports(nodes: list[NodeEntry], demand: Demand) -> str:
    best = min(nodes, key=lambda entry: (-dynamic_ports_free(entry, demand), entry.name))
    free = max(0, dynamic_ports_free(best, demand))
    return f"{_lack(nodes)} {demand.dynamic_ports} free dynamic ports ({_most(best, str(free))})"


def _max_per_node(nodes: list[NodeEntry], demand: Demand) -> str:
    return f"already {_run(nodes)} {demand.max_per_node} of worker {demand.key[2]} (max_per_node){_names(nodes)}"


def _anti_affinity(nodes: list[NodeEntry], demand: Demand) -> str:
    workers = sorted({other[2] for other in demand.conflicts if any(other in entry.workers for entry in nodes)})
    return f"{_run(nodes)} {', '.join(workers)}, which must not share a node with {demand.key[2]}{_names(nodes)}"


_PHRASES: dict[Filter, Callable[[list[NodeEntry], Demand], str]] = {
    Filter.CPU: _cpu,
    Filter.MEMORY: _memory,
    Filter.FIXED_PORT: _fixed_port,
    Filter.DYNAMIC_PORTS: _dynamic_ports,
    Filter.MAX_PER_NODE: _max_per_node,
    Filter.ANTI_AFFINITY: _anti_affinity,
}


def _count(nodes: list[NodeEntry], total: int) -> str:
    return f"{len(nodes)} of {total} nodes"


def _names(nodes: list[NodeEntry]) -> str:
    shown = ", ".join(entry.name for entry in nodes[:NAMES_SHOWN])
    return f" ({shown}{', ...' if len(nodes) > NAMES_SHOWN else ''})"


def _most(best: NodeEntry, free: str) -> str:
    return f"most free: {best.name}, {free}"


def _be(nodes: list[NodeEntry]) -> str:
    return "is" if len(nodes) == 1 else "are"


def _do(nodes: list[NodeEntry]) -> str:
    return "does" if len(nodes) == 1 else "do"


def _have(nodes: list[NodeEntry]) -> str:
    return "has" if len(nodes) == 1 else "have"


def _lack(nodes: list[NodeEntry]) -> str:
    return "lacks" if len(nodes) == 1 else "lack"


def _run(nodes: list[NodeEntry]) -> str:
    return "runs" if len(nodes) == 1 else "run"
