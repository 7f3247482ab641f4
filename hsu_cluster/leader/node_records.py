"""What follows from the first word of an agent: the record of its node, and the welcome. Pure."""

from __future__ import annotations

from hsu_core.model.node import NodeRecord, NodeState, NodeTimes
from hsu_core.model.records import ClusterRecord
from hsu_core.wire.frames import PROTOCOL, Hello, Welcome


def record_of(hello: Hello, now_s: float, held_by: str) -> NodeRecord:
    """Return the record of a node that registers; `held_by` is the other incarnation whose work it holds (or empty)."""
    return NodeRecord(
        hello.node,
        NodeState.READY,
        labels=hello.labels,
        capacity=hello.capacity,
        os=hello.os,
        arch=hello.arch,
        version=hello.version,
        address=hello.address,
        boot_id=hello.boot_id,
        changed_at=now_s,
        reason=f"holds the work of cluster {held_by}; see doctor accept-restore" if held_by else "",
        host=hello.host,
        held_by=held_by,
        fence=hello.fence,
    )


def welcome_to(hello: Hello, cluster: ClusterRecord, term: int, leader: str, times: NodeTimes) -> Welcome:
    """Return the answer to an agent that is admitted; `leader` is where this master is reached."""
    return Welcome(
        term,
        cluster.incarnation,
        times.beat_s,
        times.ttl_s,
        leader,
        min(hello.protocol, PROTOCOL),
        silence_s=times.suspect_s,
        accepted=cluster.accepted,
    )
