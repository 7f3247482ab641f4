"""The arithmetic of rollouts: surge and unavailable, weight to counts, proportional scaling, numbers of slots. Pure.

Rounding follows Kubernetes' deployment utilities and Argo Rollouts' replica set utilities (see each function).
"""

from __future__ import annotations

from collections.abc import Mapping

from hsu_core.model.spec import RolloutSpec

BASE_STEP = 100
"""First slots of sets are multiples of it, so that people tell the sets apart."""


def fenceposts(rollout: RolloutSpec, replicas: int) -> tuple[int, int]:
    """Return (max_surge, max_unavailable) as counts for `replicas` (Kubernetes' ResolveFenceposts).

    Surge rounds up, unavailable down; if both come to 0, unavailable is 1; unavailable is at most all.
    """
    surge, unavailable = rollout.max_surge, rollout.max_unavailable
    if rollout.is_max_surge_percent:
        surge = -(-replicas * surge // 100)
    if rollout.is_max_unavailable_percent:
        unavailable = replicas * unavailable // 100
    if not surge and not unavailable:
        unavailable = 1
    return surge, min(unavailable, replicas)


def canary_counts(replicas: int, weight: int, max_surge: int) -> tuple[int, int]:
    """Return (canary, stable) instances that come nearest to `weight` percent without a traffic router.

    Argo Rollouts' approximateWeightedCanaryStableReplicaCounts: of `replicas`, or one more if that may surge; ties
    round up; one canary and one stable at least for 1..99.
    """
    if replicas == 0:
        return 0, 0
    ceiling, floor = -(-replicas * weight // 100), replicas * weight // 100
    may_be_zero = weight in (0, 100) or (replicas == 1 and not max_surge)
    options: list[tuple[int, int]] = []
    if ceiling < replicas or may_be_zero:
        options.append((ceiling, replicas))
    if not _is_tied(replicas, weight) and (floor or may_be_zero):
        options.append((floor, replicas))
    if max_surge:
        options.append((ceiling, replicas + 1))
        if not _is_tied(replicas + 1, weight) and (floor or may_be_zero):
            options.append((floor, replicas + 1))
    if not options:
        return 0, replicas
    canary, total = min(options, key=lambda option: abs(option[0] * 100 / option[1] - weight))
    return canary, total - canary


def _is_tied(total: int, weight: int) -> bool:
    return total * weight % 100 == 50


def routed_canary_count(replicas: int, weight: int) -> int:
    """Return the canary instances for `weight` percent when a router shares out the traffic: rounded up."""
    return -(-replicas * weight // 100)


def proportional(sets: Mapping[int, int], total: int) -> dict[int, int]:
    """Return how many instances each revision has when `total` are shared out in the proportion of `sets`.

    Shares are rounded; what is left over goes to the largest set. Of equal ones the newer takes it on the way up, the
    older on the way down (Kubernetes' proportional scaling).
    """
    present = sum(sets.values())
    if not present:
        return dict.fromkeys(sets, 0)
    is_up = total > present
    order = sorted(sets, key=lambda revision: (-sets[revision], -revision if is_up else revision))
    left = total - present
    shares: dict[int, int] = {}
    for revision in order:
        change = _rounded(sets[revision] * total, present) - sets[revision]
        change = min(change, left) if is_up else max(change, left)
        shares[revision] = sets[revision] + change
        left -= change
    for revision in order:  # what rounding left over: the largest set first
        change = max(left, -shares[revision])
        shares[revision] += change
        left -= change
    return shares


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def other_base(base: int, replicas: int) -> int:
    """Return the first slot of a second set beside the one at `base`, with room for both to double."""
    room = max(2 * replicas, 1)
    candidate = 0
    while candidate < base + room and base < candidate + room:
        candidate += BASE_STEP
    return candidate
