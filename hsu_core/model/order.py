"""What an agent needs to know of a worker to run it: one worker specification out of its revision. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hsu_core.model.ids import AppId
from hsu_core.model.spec import WorkerSpec


@dataclass(frozen=True, slots=True)
class OrderSpec:
    """One worker of one revision, with the folder its relative paths start from."""

    app: AppId
    revision: int
    worker: WorkerSpec
    base_directory: str = ""

    @property
    def key(self) -> str:
        """Return the name under which orders refer to it."""
        return spec_key(self.app, self.revision, self.worker.id)


def spec_key(app: AppId, revision: int, worker: str) -> str:
    """Return the name of a worker's specification in orders."""
    return f"{app.namespace}/{app.app}/{worker}@{revision}"
