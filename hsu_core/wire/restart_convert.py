"""The meaning of the restart blocks: HSU's `context_aware_restart` and the cluster's own."""

from __future__ import annotations

from collections.abc import Mapping

from hsu_core.model.restarts import BreakerSpec, RestartPolicy, RestartSpec, RetryRule
from hsu_core.wire.faults import FaultList
from hsu_core.wire.restart_models import ContextAwareRestart, LegacyRestart, RestartModel, RetryModel
from hsu_core.wire.tree import Path

HSU_RETRIES = 3
HSU_RETRY_DELAY_S = 5.0
HSU_BACKOFF_RATE = 1.5
"""HSU's own defaults of context-aware restart, for files that use its keys."""

HSU_PROFILES: Mapping[str, float] = {"batch": 3.0, "web": 1.0, "database": 5.0, "worker": 2.0, "scheduler": 2.5}
"""HSU's factors for delays and retries by `profile_type`; other profiles have 1."""

HSU_SEVERITIES: Mapping[str, float] = {"warning": 0.5, "critical": 1.0, "emergency": 2.0}
"""HSU's factors by the severity of an exceeded limit."""


def convert_hsu_restart(
    policy_word: str | None,
    context: ContextAwareRestart | None,
    legacy: LegacyRestart | None,
    profile: str,
    path: Path,
    found: FaultList,
) -> RestartSpec | None:
    """Return what the restart keys of a unit's control block say, or None if there are none.

    HSU's budget of retries becomes a breaker: after them there is a pause, and no end for good.
    """
    triple = context.default if context is not None else None
    if legacy is not None and (policy_word or triple):
        found.fault((*path, "restart"), "restart is described twice", "keep restart_policy and context_aware_restart")
    word = policy_word or (legacy.policy if legacy else None)
    if word is None and legacy is None and context is None:
        return None
    policy = RestartPolicy(word or RestartPolicy.ON_FAILURE)
    retry = triple or legacy
    if retry is None and context is None:
        return RestartSpec(policy=policy)
    factor = _profile_factor(context, profile)
    base = _rule(retry, RetryRule(HSU_RETRY_DELAY_S, HSU_BACKOFF_RATE, HSU_RETRIES))
    context = context or ContextAwareRestart()
    health = _rule(context.health_failures, base)
    limits = _rule(
        context.resource_violations, RetryRule(base.base_s * 2, HSU_BACKOFF_RATE, (base.max_retries or 0) + 2)
    )
    severities = {**HSU_SEVERITIES, **(context.severity_multipliers or {})}
    rules = [_scaled(rule, factor) for rule in (base, health, limits)]
    retries = rules[0].max_retries or 0
    is_endless = retries > 0
    return RestartSpec(
        policy=policy,
        base_s=rules[0].base_s,
        factor=rules[0].factor,
        ceiling_s=max(RestartSpec().ceiling_s, *(rule.base_s for rule in rules)),
        max_retries=None if is_endless else 0,
        health=_without_retries(rules[1]) if is_endless and rules[1] != rules[0] else None,
        limits=_without_retries(rules[2]) if is_endless else None,
        breaker=BreakerSpec(retries=retries) if is_endless else None,
        grace_s=context.startup_grace_period or 0.0,
        severities=tuple(sorted(severities.items())),
    )


def _profile_factor(context: ContextAwareRestart | None, profile: str) -> float:
    own = context.worker_profile_multipliers if context is not None else None
    return {**HSU_PROFILES, **(own or {})}.get(profile, 1.0)


def _rule(retry: RetryModel | None, default: RetryRule) -> RetryRule:
    """Return the rule of a block; what it leaves out is the default's."""
    if retry is None:
        return default
    return RetryRule(
        base_s=default.base_s if retry.retry_delay is None else retry.retry_delay,
        factor=default.factor if retry.backoff_rate is None else retry.backoff_rate,
        max_retries=default.max_retries if retry.max_retries is None else retry.max_retries,
    )


def _scaled(rule: RetryRule, factor: float) -> RetryRule:
    retries = rule.max_retries or 0
    return RetryRule(rule.base_s * factor, rule.factor, max(1, int(retries * factor)) if retries else 0)


def _without_retries(rule: RetryRule) -> RetryRule:
    return RetryRule(rule.base_s, rule.factor)


def convert_restart(body: RestartModel, path: Path, found: FaultList) -> RestartSpec:
    """Return what a worker's own `restart` block says."""
    default, backoff = RestartSpec(), body.backoff
    base_s = default.base_s if backoff is None or backoff.base is None else backoff.base
    ceiling_s = default.ceiling_s if backoff is None or backoff.ceiling is None else backoff.ceiling
    if ceiling_s < base_s and backoff is not None and backoff.ceiling is not None:
        found.fault((*path, "restart", "backoff"), f"ceiling of {ceiling_s:g} s is below base {base_s:g} s")
    codes = body.exit_codes
    success, final = (codes.success or (), codes.final or ()) if codes is not None else ((), ())
    if both := sorted(set(success) & set(final)):
        text = f"{both[0]} is both success and final"
        found.fault((*path, "restart", "exit_codes"), text, "keep it in one of the two lists")
    return RestartSpec(
        policy=RestartPolicy(body.policy) if body.policy else default.policy,
        base_s=base_s,
        factor=default.factor if backoff is None or backoff.factor is None else backoff.factor,
        ceiling_s=max(ceiling_s, base_s),
        reset_after_s=(
            default.reset_after_s if backoff is None or backoff.reset_after is None else backoff.reset_after
        ),
        max_retries=body.max_retries,
        breaker=_breaker(body),
        grace_s=body.grace or 0.0,
        success_codes=tuple(success),
        final_codes=tuple(final),
    )


def _breaker(body: RestartModel) -> BreakerSpec | None:
    if body.breaker is None:
        return None
    default, said = BreakerSpec(), body.breaker
    return BreakerSpec(
        retries=default.retries if said.retries is None else said.retries,
        window_s=default.window_s if said.window is None else said.window,
        cooldown_s=default.cooldown_s if said.cooldown is None else said.cooldown,
    )
