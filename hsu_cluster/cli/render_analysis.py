"""Analysis runs as a table: one line for each metric of each run. Pure: documents and `now` in, lines out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from hsu_cluster.cli.layout import Cell, Row, cell, columns, row
from hsu_cluster.cli.text import age
from hsu_cluster.client.analysis_documents import AnalysisRunDocument, MetricRunDocument

VALUES_SHOWN = 3
"""Last values in a line; `-o json` has all that are kept."""

VALUE_WIDTH = 40
"""Longest value in a line, in characters."""

_TITLES = ("RUN", "VERDICT", "METRIC", "RESULT", "MEASURED", "LAST VALUES", "AGE", "REASON")
_STYLES: Mapping[str, str] = {
    "Successful": "green",
    "Running": "yellow",
    "Pending": "yellow",
    "Inconclusive": "yellow",
    "Error": "red",
    "Failed": "red",
}


def run_lines(runs: Sequence[AnalysisRunDocument], now: float) -> list[Text]:
    """Return the table; a run of which nothing is known yet has a line of its own."""
    rows: list[Row] = []
    for run in runs:
        head = (run["id"], _verdict(run["verdict"]))
        rows += [(*row(*head), *_metric(metric, now)) for metric in run["metrics"]]
        if not run["metrics"]:
            rows.append(row(*head, "", "", "", "", age(run["started_at"], now), run["text"]))
    return columns(_TITLES, rows)


def _metric(metric: MetricRunDocument, now: float) -> Row:
    last = metric["measurements"][-VALUES_SHOWN:]
    name = f"{metric['name']} (dry run)" if metric["dry_run"] else metric["name"]
    reason = metric["text"] or next((each["text"] for each in reversed(last) if each["text"]), "")
    return row(
        name,
        _verdict(metric["verdict"]),
        _measured(metric),
        ", ".join(_shortened(each["value"]) or "no answer" for each in last),
        age(last[-1]["at"], now) if last else "",
        reason,
    )


def _measured(metric: MetricRunDocument) -> str:
    """Return `4 successful, 1 failed`."""
    counts = (
        (metric["successful"], "successful"),
        (metric["failed"], "failed"),
        (metric["inconclusive"], "inconclusive"),
        (metric["errors"], "unanswered"),
    )
    return ", ".join(f"{count} {word}" for count, word in counts if count)


def _shortened(value: str) -> str:
    return value if len(value) <= VALUE_WIDTH else f"{value[: VALUE_WIDTH - 3]}..."


def _verdict(verdict: str) -> Cell:
    return cell(verdict, _STYLES.get(verdict, ""))
