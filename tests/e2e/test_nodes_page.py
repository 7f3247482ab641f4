"""The commands of docs/nodes.md, typed in order on three nodes; and what the page says of defaults is what they are."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from hsu_cluster.planning.balance import LOAD_MARGIN, NODES_COMPARED
from hsu_cluster.planning.demotion import AVOIDED_S, DEMOTED_LIMIT
from hsu_cluster.planning.failover import BRAKE_MIN_NODES, BRAKE_TENTHS, COOLDOWN_CEILING_S, FLAP_MEMORY_S
from hsu_cluster.planning.rebalance import BATCH_MOVES, MOVE_PATIENCE_S, SETTLE_S
from hsu_cluster.planning.slots import FAILED_STARTS
from hsu_core.model.node import DEFAULT_TIMES
from hsu_core.model.rebalance import DEFAULT_RULES
from hsu_core.model.spec import OnReturn
from hsu_core.wire.settings import BEATS_PER_SUSPICION, parse_master_settings
from tests.e2e.pages import blocks, commands, read_page
from tests.support.cluster import Cluster, eventually, sleeper

PAGE = read_page("nodes.md")
NODES = ("node-a", "node-b", "node-c")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_can_be_typed_in_order(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.master("master")
        for node in NODES:
            cluster.agent(node)
        cluster.wait_nodes(*NODES)
        cluster.cli("deploy", str(cluster.manifest("shop", [sleeper("web", 4)])), "--timeout", "60s")
        for command in commands(PAGE):
            words = shlex.split(command)
            assert words[0] == "hsu-cluster"
            cluster.cli(*words[1:])
            eventually("all are ready again", lambda: len(cluster.ready("shop")) == 4, every_s=0.1)


def test_the_settings_of_the_page_are_read_and_its_numbers_are_true() -> None:
    found = [block for block in blocks(PAGE, "yaml") if "automatic" in block]
    assert parse_master_settings(found[0], file="/etc/hsu/master.yaml").rebalance.is_automatic
    assert yaml.safe_load(found[0])["rebalance"]["max_moves"] == DEFAULT_RULES.max_moves
    assert DEFAULT_RULES.interval_s == 60
    assert not DEFAULT_RULES.is_automatic
    assert (LOAD_MARGIN, NODES_COMPARED, BATCH_MOVES) == (0.10, 64, 10)
    assert (MOVE_PATIENCE_S, SETTLE_S) == (600, 30)
    text = " ".join(PAGE.split())
    for said in (
        "fuller by 10 %",
        "the 64 fullest and the 64 emptiest",
        "batches of ten",
        "within ten minutes",
        "30 s",
    ):
        assert said in text


def test_the_times_and_limits_of_silent_nodes_are_what_the_page_says() -> None:
    (settings,) = [block for block in blocks(PAGE, "yaml") if "suspect" in block]
    assert parse_master_settings(settings, file="/etc/hsu/master.yaml").nodes == DEFAULT_TIMES
    (worker,) = [yaml.safe_load(block)["workers"][0] for block in blocks(PAGE, "yaml") if "on_return" in block]
    assert OnReturn(worker["on_return"].replace("_", "-")) is OnReturn.KEEP_ORIGINAL
    assert BEATS_PER_SUSPICION == 1.5
    assert (BRAKE_MIN_NODES, BRAKE_TENTHS) == (3, 3)
    assert FLAP_MEMORY_S == COOLDOWN_CEILING_S == AVOIDED_S == 600
    assert (FAILED_STARTS, DEMOTED_LIMIT) == (5, 3)
