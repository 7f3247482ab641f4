"""Figures of one fault, and the tables made of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.failures.catalogue import CATALOGUE

Figures = dict[str, Any]
"""As in the JSON file: `seconds` (one a repetition), `duplicates`, `lost_writes`, `restarts`, `writes`, `accepted`."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile; of few values a high one is the largest."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def seconds(values: Sequence[float]) -> str:
    """Return "p50 / p99" in seconds; a dash for nothing."""
    if not values:
        return "–"
    return f"{_rounded(percentile(values, 0.5))} / {_rounded(percentile(values, 0.99))} s"


def _rounded(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def table(document: Mapping[str, Any]) -> str:
    """Return the table of faults as Markdown: ours, and what others need."""
    head = [
        "Fault",
        "All is well when",
        "Ours, p50 / p99",
        "Twice",
        "Lost writes",
        "Others restarted",
        "Nomad",
        "Swarm",
    ]
    lines = [head, ["---"] * len(head)]
    ours, swarm = document["faults"], document.get("swarm", {})
    for key, row in CATALOGUE.items():
        if key not in ours:
            continue
        figures = ours[key]
        measured = seconds(swarm[key]["seconds"]) if key in swarm else ""
        others = "; ".join(part for part in (f"**{measured}**" if measured else "", row.swarm) if part)
        counts = [str(figures[name]) for name in ("duplicates", "lost_writes", "restarts")]
        lines.append([row.fault, row.recovered, seconds(figures["seconds"]), *counts, row.nomad or "–", others or "–"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sentences(document: Mapping[str, Any]) -> str:
    """Return what is said below the table: on what it was measured, and the figures that are no row of it."""
    about, ours = document["about"], document["faults"]
    writes = sum(figures["writes"] for figures in ours.values())
    text = [
        f"Measured on {about['day']}: {about['machine']}; {about['load']}. Each fault {about['repetitions']} times, on "
        f"three etcd members, three masters and three agents, while clients made {writes} writes in all."
    ]
    accepted = [value for figures in ours.values() for value in figures.get("accepted", ())]
    if accepted:
        text.append(
            f"Another master accepted a deploy {seconds(accepted)} after the leader was killed, stopped or frozen."
        )
    if deaths := document.get("deaths"):
        text.append(
            f"After {deaths['deaths']} kills of an agent with {deaths['workers']} workers (processes with sessions of "
            f"their own, double forks, some deaf to SIGTERM): {deaths['restarts']} restarted, {deaths['duplicates']} "
            f"doubled, {deaths['orphans']} left behind after the end."
        )
    if outage := document.get("outage"):
        text.append(
            f"{outage['minutes']:g} minutes without etcd: {outage['restarts']} of {outage['workers']} workers "
            f"restarted; a deploy was placed {_rounded(outage['back_s'])} s after its return."
        )
    if swarm := document.get("swarm_about"):
        text.append(f"Swarm in bold: {swarm}, measured on the same machine.")
    return "\n\n".join(text)
