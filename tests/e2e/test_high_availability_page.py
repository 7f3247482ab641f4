"""What docs/high-availability.md states as fact; its faults are in test_takeover, _store_outage, _restored_store."""

from __future__ import annotations

from hsu_cluster.api.outage import READ_LIMIT_S, WRITE_LIMIT_S
from hsu_cluster.api.server import STALE_HEADER
from hsu_cluster.cli.session import stale_line
from hsu_cluster.leader.service import LeaderTimes
from hsu_core.store.lease import RENEWALS_PER_TTL
from hsu_core.wire.settings import LEADER_TTL_LEAST_S, parse_master_settings
from tests.e2e.pages import blocks, commands, read_page

PAGE = read_page("high-availability.md")


def test_the_settings_of_the_page_are_read() -> None:
    (text,) = blocks(PAGE, "yaml")
    settings = parse_master_settings(text, file="master.yaml")
    assert settings.leader_ttl_s == parse_master_settings("", file="master.yaml").leader_ttl_s == 5.0
    assert LeaderTimes().leader_ttl_s == 5.0


def test_the_numbers_and_words_of_the_page_are_those_of_the_code() -> None:
    assert f"`leader_ttl` is at least {LEADER_TTL_LEAST_S:g} s" in PAGE
    assert RENEWALS_PER_TTL == 5, "the page says how often the lease is renewed"
    assert READ_LIMIT_S + WRITE_LIMIT_S / 2 < 5.0, "a read that fails ends a write; the page promises 5 s"
    assert WRITE_LIMIT_S < 5.0
    assert STALE_HEADER in PAGE
    assert stale_line(12.0) in PAGE


def test_the_commands_of_the_page_are_those_that_the_restores_are_tested_with() -> None:
    assert commands(PAGE) == ["hsu-cluster doctor accept-restore", "hsu-cluster doctor accept-restore --yes"]
