"""At most one live process group per slot, over all nodes, at every instant: counted on a real cluster under faults."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.e2e.strict_faults import Trial
from tests.support.cluster import Cluster, eventually
from tests.support.strict_worker import overlaps

FAULTS = 20


def test_a_frozen_agents_worker_is_killed_replaced_and_not_started_again_when_it_thaws(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        trial = Trial(cluster)
        trial.begin()
        node = trial.rest()
        agent = cluster.agent_process(node)
        agent.send_signal(signal.SIGSTOP)
        trial.moved_from(node)
        copies = {life.run for life in trial.lives()}
        agent.send_signal(signal.SIGCONT)
        assert trial.rest() != node
        cluster.wait_nodes(node)
        assert {life.run for life in trial.lives()} == copies, "the thawed agent started nothing"
        old, new = sorted(copies, key=lambda run: min(life.start_s for life in trial.lives() if life.run == run))
        tokens = {life.run: life.token for life in trial.lives()}
        assert tokens[new] > tokens[old]
        assert not overlaps(trial.lives())
        log = cluster.agents[node].log_file.read_text()
        assert "1 strict workers killed: the lease of this node ended" in log


def test_twenty_faults_of_all_kinds_make_no_two_copies_live_at_once(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        trial = Trial(cluster)
        trial.begin()
        trial.run(FAULTS)
        assert sum(trial.counts.values()) == FAULTS
        assert eventually("leases ended", trial.lateness_ms)
