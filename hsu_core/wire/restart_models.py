"""The words of restart: HSU's blocks in the unit, and the cluster's own block. No meaning yet."""

from __future__ import annotations

from typing import Annotated, Any

from hsu_core.wire import forms
from hsu_core.wire.fields import Count, Duration, Factor, Positive, Strict, Threshold, choice, shown, wrong
from hsu_core.wire.forms import Takes
from hsu_core.wire.tree import resolve_scalar

Policy = Annotated[str, choice("never", "on-failure", "always", "unless-stopped")]


def _codes(value: Any) -> tuple[int, ...]:
    """Return exit codes from numbers and ranges such as `64-78`."""
    found: list[int] = []
    for item in value if isinstance(value, list) else [value]:
        text = str(item) if isinstance(item, int | str) and not isinstance(item, bool) else "?"
        low, dash, high = text.partition("-")
        numbers = [resolve_scalar(part.strip()) for part in ((low, high) if dash else (low, low))]
        if not all(
            type(number) is not bool and isinstance(number, int) and 0 <= number <= 255 for number in numbers
        ) or (numbers[0] > numbers[1]):
            raise wrong(f"{shown(item)} is not an exit code", "write numbers from 0 to 255, or ranges such as 64-78")
        found += range(numbers[0], numbers[1] + 1)
    return tuple(sorted(set(found)))


_CODE = r"[+]?[0-9][0-9a-fA-Fxo]*"
_CODE_FORM = forms.one_of(
    {"type": "integer", "minimum": 0, "maximum": 255},
    forms.matching(rf"^\s*{_CODE}\s*(-\s*{_CODE}\s*)?$", "a code, or a range such as 64-78"),
    forms.REFERENCE,
)
_CODES_FORM = forms.one_of(_CODE_FORM, {"type": "array", "items": _CODE_FORM})

ExitCodes = Annotated[tuple[int, ...], Takes(_codes, _CODES_FORM)]


class RetryModel(Strict):
    """HSU's times and rhythm of restarts."""

    max_retries: Count | None = None
    retry_delay: Duration | None = None
    backoff_rate: Factor | None = None


class ContextAwareRestart(Strict):
    """HSU's restart by cause: `default` for exits, the two others for probes and limits."""

    default: RetryModel | None = None
    health_failures: RetryModel | None = None
    resource_violations: RetryModel | None = None
    severity_multipliers: dict[str, Positive] | None = None
    worker_profile_multipliers: dict[str, Positive] | None = None
    startup_grace_period: Duration | None = None
    sustained_violation_time: Duration | None = None
    spike_tolerance_time: Duration | None = None


class LegacyRestart(RetryModel):
    """HSU's older block: policy and retries in one."""

    policy: Policy | None = None


class BackoffModel(Strict):
    """How long to wait between restarts."""

    base: Duration | None = None
    factor: Factor | None = None
    ceiling: Duration | None = None
    reset_after: Duration | None = None


class BreakerModel(Strict):
    """No restart for `cooldown` after more than `retries` within `window`, then one on trial."""

    retries: Threshold | None = None
    window: Duration | None = None
    cooldown: Duration | None = None


class ExitCodesModel(Strict):
    """What exit codes mean beside 0: success, or the end of all restarts."""

    success: ExitCodes | None = None
    final: ExitCodes | None = None


class RestartModel(Strict):
    """The cluster's own restart block, instead of the keys in the unit."""

    policy: Policy | None = None
    max_retries: Count | None = None
    backoff: BackoffModel | None = None
    breaker: BreakerModel | None = None
    exit_codes: ExitCodesModel | None = None
    grace: Duration | None = None
