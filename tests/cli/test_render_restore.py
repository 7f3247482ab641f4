"""What `doctor accept-restore` says."""

from __future__ import annotations

from collections.abc import Callable

from hsu_cluster.cli.render_restore import NAMED_LIMIT, is_pending, restore_report
from hsu_cluster.client.restore_documents import RestoreDocument

NOTHING: RestoreDocument = {
    "incarnation": "0123456789abcdef",
    "former": "",
    "held": "",
    "accepted": [],
    "nodes": [],
    "revision": 7,
}
RESTORED: RestoreDocument = {
    **NOTHING,
    "former": "fedcba9876543210",
    "held": "the store was restored from an older state: node a has heard of revision 900, and the store is at 700",
    "nodes": [
        {
            "node": "node-a",
            "held_by": "fedcba9876543210",
            "keeps": ["shop/web.0", "shop/web.1"],
            "restarts": ["shop/db.0"],
            "stops": [f"late/web.{number}" for number in range(NAMED_LIMIT + 3)],
            "starts": ["shop/web.2"],
        },
        {
            "node": "node-b",
            "held_by": "fedcba9876543210",
            "keeps": ["shop/web.3"],
            "restarts": [],
            "stops": [],
            "starts": [],
        },
    ],
}


def test_report(golden: Callable[[str, str], None]) -> None:
    golden("accept-restore", "\n".join(line.plain for line in restore_report(RESTORED)))
    golden("accept-restore-nothing", "\n".join(line.plain for line in restore_report(NOTHING)))


def test_something_is_pending_when_the_cluster_or_a_node_is_held() -> None:
    assert not is_pending(NOTHING)
    assert is_pending(RESTORED)
    assert is_pending({**RESTORED, "nodes": []})
    assert is_pending({**RESTORED, "held": ""})
