"""The commands of docs/traffic.md, typed in order against a standalone cluster and the HAProxy of the page."""

from __future__ import annotations

import json
import re
import shlex
import urllib.request
from pathlib import Path

import pytest

from hsu_cluster.cli.kinds import KINDS
from hsu_cluster.leader.traffic.template import render
from hsu_cluster.leader.traffic.webhook import payload
from hsu_core.wire.manifest import parse_manifest
from tests.e2e.pages import blocks, read_page
from tests.leader.traffic_rigs import endpoint, wish
from tests.support.cluster import Cluster, eventually
from tests.support.haproxy import Haproxy

PAGE = read_page("traffic.md")
MANIFEST, CONFIG, TEMPLATE = blocks(PAGE, "yaml")[0], blocks(PAGE, "text")[0], blocks(PAGE, "text")[1]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_page_can_be_typed_in_order(tmp_path: Path) -> None:
    with Haproxy(CONFIG.replace("/run/haproxy", "{folder}").replace(":8080", "fd@{front}")) as proxy:
        with Cluster(tmp_path) as cluster:
            cluster.standalone("one")
            manifest = tmp_path / "shop.yaml"
            marked = f"executable_path: python3, environment: {{HSU_TEST_WORKER_OF: '{cluster.marker}'}}"
            text = MANIFEST.replace("executable_path: python3", marked)  # so that the workers are found and ended
            manifest.write_text(text.replace("/run/haproxy", str(proxy.folder)))
            told = []
            for line in blocks(PAGE, "sh")[0].splitlines():
                words = [str(manifest) if word == manifest.name else word for word in shlex.split(line)[1:]]
                told.append(cluster.cli(*words).stdout)
            assert told[1].count("shop/web.") == 2
            assert len(cluster.workers()) == 2
            assert "haproxy" in told[2]
            eventually("both have joined", lambda: len(proxy.servers()) == 2)
            assert all(is_ready for _, _, is_ready in proxy.servers().values())
            with urllib.request.urlopen(proxy.url(), timeout=10) as answer:
                assert answer.status == 200
            (route,) = cluster.call("GET", "/v1/routes")["items"]
            assert (len(route["members"]), route["trouble"], route["weights"]) == (2, "", {"stable": 100})
            assert len(cluster.call("GET", "/v1/prometheus/targets?namespace=default&app=shop&port=http")) == 2


def test_the_manifest_of_the_page_has_no_warnings() -> None:
    parsed = parse_manifest(MANIFEST, file="shop.yaml", environment={}, read_file=None)
    assert not parsed.warnings
    assert parsed.spec.routes[0].drain_s == 10.0


def test_the_template_of_the_page_becomes_what_it_says() -> None:
    assert render(TEMPLATE, ()).splitlines()[1] == "    server 127.0.0.1:9 down; "
    assert "{endpoints}" not in TEMPLATE


def test_the_state_that_a_webhook_gets_has_the_keys_of_the_page() -> None:
    text = json.dumps(payload(wish(None, [endpoint(0)], percent=10)))
    told = re.findall(r'"(\w+)":?', PAGE[PAGE.index("**Webhook.**") : PAGE.index("Redirects are")])
    assert set(re.findall(r'"(\w+)":', text)) <= set(told)


def test_kinds_of_the_page_are_kinds() -> None:
    assert {"endpoints", "routes"} <= set(KINDS)
