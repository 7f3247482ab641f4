"""Minutes without etcd: nobody is restarted, and a deploy is placed when it is back."""

from __future__ import annotations

import time

from bench.failures.figures import Figures
from bench.failures.site import Site


def measure_outage(site: Site, minutes: float) -> Figures:
    """Kill all etcd members for so long; return how many workers were restarted and when a deploy was placed again."""
    before = site.settled()
    for member in site.etcd:
        member.kill()
    time.sleep(minutes * 60)
    began = time.monotonic()
    for member in site.etcd:
        member.spawn()
    app, _ = site.accept(began)
    back_s = site.placed(began, app)
    after = site.settled()
    restarts = sum(after[name]["pid"] != item["pid"] for name, item in before.items())
    return {"minutes": minutes, "workers": len(before), "restarts": restarts, "back_s": round(back_s, 3)}
