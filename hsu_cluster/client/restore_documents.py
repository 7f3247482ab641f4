"""Documents about a restored store: what is held, and what accepting the restore does."""

from __future__ import annotations

from typing import TypedDict


class NodeForecastDocument(TypedDict):
    """A node that holds its work, and the ids of its instances (`shop/web.2`) by what happens to them."""

    node: str
    held_by: str
    keeps: list[str]
    restarts: list[str]
    stops: list[str]
    starts: list[str]


class RestoreDocument(TypedDict):
    """`held`: why nothing is planned or ordered ("": it is). `nodes`: those that hold work of another incarnation."""

    incarnation: str
    former: str
    held: str
    accepted: list[str]
    nodes: list[NodeForecastDocument]
    revision: int
