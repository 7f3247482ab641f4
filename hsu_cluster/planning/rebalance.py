"""How far a rebalance is, and when the automatic one begins: from the record to the next record. Pure.

Which moves are worth it is `balance`, how a slot moves within the floor is `leaving`. Moves are chosen in batches, and
the next batch only when the one before is over, so that it is judged by what came of it. Everything is in the record: a
new leader goes on, and a move that cannot be done is given up, never waited for without end.
"""

from __future__ import annotations

from dataclasses import replace

from hsu_cluster.planning.balance import choose_moves
from hsu_cluster.planning.failover import cooling_until_s
from hsu_cluster.planning.slots import available_at_s, status_of, target_of
from hsu_core.model.assignment import Assignment
from hsu_core.model.node import NodeState
from hsu_core.model.rebalance import Move, MoveState, Rebalance, RebalancePhase
from hsu_core.model.view import ClusterView, Plan, PutRebalance

BATCH_MOVES = 10
"""Moves of one batch: enough to keep a few nodes busy, few enough that the next choice is made soon."""

MOVE_PATIENCE_S = 600.0
"""A batch that is not over after this time is given up: as long as a rollout has without progress."""

SETTLE_S = 30.0
"""The automatic rebalance waits so long after the last node has joined or returned: others may come, too."""

NO_ROOM = "rebalance.no-room"
"""Code of what waits because the target of its move has no room any more."""


def with_rebalance(plan: Plan, view: ClusterView, now_s: float) -> Plan:
    """Return the plan with what is to be written of the rebalance, if anything; `plan` was made on this view."""
    held, intent, rules = view.rebalance, view.rebalance_intent, view.rebalance_rules
    if held is None and intent is None and not rules.is_automatic:
        return plan
    after, events, retry_at_s = _step(plan, view, now_s)
    if after is not None and after != held:
        plan = replace(plan, actions=(*plan.actions, PutRebalance(after, events)))
    if retry_at_s is not None and retry_at_s > now_s:
        plan = replace(plan, retry_at_s=min(retry_at_s, plan.retry_at_s or retry_at_s))
    return plan


_Step = tuple[Rebalance | None, tuple[tuple[str, str], ...], float | None]


def _step(plan: Plan, view: ClusterView, now_s: float) -> _Step:
    held, intent = view.rebalance, view.rebalance_intent
    is_new = intent is not None and not intent.is_cancelled and (held is None or held.id != intent.id)
    if is_new and intent is not None and not (held is not None and held.is_active and not held.is_automatic):
        begun = Rebalance(
            intent.id, max_moves=intent.max_moves, started_at=now_s, considered_at=_newest_node(view), text="begins"
        )
        return _next_batch(view, begun, now_s, (("RebalanceStarted", _begun_text(begun)),))
    if held is not None and held.is_active:
        return _go_on(plan, view, held, now_s)
    return _automatic(view, held, now_s)


def _begun_text(begun: Rebalance) -> str:
    limit = f", at most {begun.max_moves} moves" if begun.max_moves else ""
    return f"the instances are rebalanced{limit}"


# --- on its way ----------------------------------------------------------------------------------


def _go_on(plan: Plan, view: ClusterView, held: Rebalance, now_s: float) -> _Step:
    intent = view.rebalance_intent
    is_cancelled = intent is not None and intent.id == held.id and intent.is_cancelled
    is_late = now_s >= held.batch_at + MOVE_PATIENCE_S
    no_room = {item.subject for item in plan.waiting if item.code == NO_ROOM}
    moves = tuple(_judged(view, move, now_s, is_late or str(move.instance) in no_room) for move in held.moves)
    if is_cancelled:
        after = _counted(replace(held, moves=moves))
        text = f"cancelled after {_count(after.moved)}"
        return _ended(after, RebalancePhase.CANCELLED, text, now_s)
    if any(move.state is MoveState.PENDING for move in moves) or (_has_helpers(view, moves) and not is_late):
        done = sum(move.state is MoveState.DONE for move in moves)
        text = f"{_count(held.moved + done)} done, {sum(move.state is MoveState.PENDING for move in moves)} on the way"
        return replace(held, moves=moves, text=text), (), held.batch_at + MOVE_PATIENCE_S
    return _next_batch(view, _counted(replace(held, moves=moves)), now_s, ())


def _has_helpers(view: ClusterView, moves: tuple[Move, ...]) -> bool:
    """Return whether a copy still runs beside instances of the batch: their worker is not at rest yet."""
    workers = {(move.instance.app_id, move.instance.worker) for move in moves}
    return bool(workers) and any(
        one.is_extra and (one.instance.app_id, one.instance.worker) in workers for one in view.assignments.values()
    )


def _judged(view: ClusterView, move: Move, now_s: float, is_given_up: bool) -> Move:
    """Return a move with what has become of it."""
    if move.state is not MoveState.PENDING:
        return move
    held = view.assignments.get(move.instance)
    if held is not None and held.node == move.target and _is_available(view, held, now_s):
        return replace(move, state=MoveState.DONE)
    is_elsewhere = held is None or held.node not in (move.source, move.target)
    if is_given_up or is_elsewhere or not _is_possible(view, move, held):
        is_there = held is not None and held.node == move.target
        return replace(move, state=MoveState.DONE if is_there else MoveState.SKIPPED)
    return move


def _is_possible(view: ClusterView, move: Move, held: Assignment | None) -> bool:
    """Return whether the target is still open and nothing is rolled out of the app."""
    app = move.instance.app_id
    rollout, record = view.rollouts.get(app), view.apps.get(app)
    node, intent = view.nodes.get(move.target), view.node_intents.get(move.target)
    is_open = node is not None and node.state is NodeState.READY
    is_open = is_open and not (intent is not None and (intent.is_cordoned or intent.is_draining))
    is_quiet = rollout is not None and record is not None and rollout.is_over and rollout.revision == record.revision
    is_there = held is not None and held.node == move.target
    return is_there or (is_open and is_quiet and app not in view.held)


def _is_available(view: ClusterView, held: Assignment, now_s: float) -> bool:
    record = view.apps.get(held.instance.app_id)
    revision = view.revisions.get((held.instance.app_id, held.revision))
    target = target_of(record, revision, held.instance.worker) if record is not None and revision is not None else None
    since_s = available_at_s(held, status_of(held, view.statuses), target, now_s) if target is not None else None
    return since_s is not None and since_s <= now_s


def _counted(held: Rebalance) -> Rebalance:
    """Return the record with its batch counted and put away."""
    done = sum(move.state is MoveState.DONE for move in held.moves)
    skipped = [move.instance for move in held.moves if move.state is not MoveState.DONE]
    return replace(held, moves=(), moved=held.moved + done, left_alone=(*held.left_alone, *skipped))


def _next_batch(view: ClusterView, held: Rebalance, now_s: float, events: tuple[tuple[str, str], ...]) -> _Step:
    rules = view.rebalance_rules
    limit = rules.max_moves if held.is_automatic else BATCH_MOVES
    if held.is_automatic:
        due_s = held.batch_at + rules.interval_s
        if held.batch_at and now_s < due_s:
            return replace(held, text=f"{_count(held.moved)} done; the next may begin soon"), events, due_s
    if held.max_moves:
        limit = min(limit, held.max_moves - held.moved)
    chosen = choose_moves(view, now_s, limit, held.left_alone) if limit > 0 else ()
    if not chosen:
        what = "all that were asked for" if limit <= 0 else "no other would make it better by a clear margin"
        after, ended, _ = _ended(held, RebalancePhase.DONE, f"{_count(held.moved)} done; {what}", now_s)
        return after, (*events, *ended), None
    told = tuple(
        ("RebalanceMove", f"{move.instance} moves from {move.source} to {move.target}: {move.why}") for move in chosen
    )
    text = f"{_count(held.moved)} done, {len(chosen)} on the way"
    after = replace(held, moves=chosen, batch_at=now_s, text=text)
    return after, (*events, *told), now_s + MOVE_PATIENCE_S


def _ended(held: Rebalance, phase: RebalancePhase, text: str, now_s: float) -> _Step:
    skipped = f", {len(held.left_alone)} given up" if held.left_alone else ""
    text = text.replace(" done", f" done{skipped}", 1) if phase is RebalancePhase.DONE else text
    after = replace(held, phase=phase, ended_at=now_s, text=text)
    return after, ((f"Rebalance{phase}", f"rebalance: {text}"),), None


def _count(moves: int) -> str:
    return "1 move" if moves == 1 else f"{moves} moves"


# --- automatic -----------------------------------------------------------------------------------


def _automatic(view: ClusterView, held: Rebalance | None, now_s: float) -> _Step:
    """Begin by itself when a node has joined or returned since the last look, and the cluster is otherwise quiet."""
    newest = _newest_node(view)
    if not view.rebalance_rules.is_automatic or newest <= (held.considered_at if held is not None else 0.0):
        return held, (), None
    cooled = [cooling_until_s(node, view.times.cooldown_s) for node in view.nodes.values()]
    settled_s = max(newest + SETTLE_S, *cooled) if cooled else newest + SETTLE_S
    if now_s < settled_s:
        return held, (), settled_s
    if not _is_quiet(view):
        return held, (), now_s + SETTLE_S
    begun = Rebalance(f"auto-{newest:.3f}", is_automatic=True, started_at=now_s, considered_at=newest)
    after, events, retry_at_s = _next_batch(view, begun, now_s, ())
    if after is not None and not after.is_active:
        return after, (), retry_at_s  # nothing to do is no news
    return after, (("RebalanceStarted", "a node has joined or returned: " + _begun_text(begun)), *events), retry_at_s


def _newest_node(view: ClusterView) -> float:
    """Return when the last of the ready nodes joined or returned, in seconds since 1970."""
    return max((node.changed_at for node in view.nodes.values() if node.state is NodeState.READY), default=0.0)


def _is_quiet(view: ClusterView) -> bool:
    """Return whether nothing is rolled out, drained or to be placed elsewhere."""
    if any(not rollout.is_over for rollout in view.rollouts.values()):
        return False
    busy = {name for name, intent in view.node_intents.items() if intent.is_draining}
    busy |= {name for name, node in view.nodes.items() if node.state is not NodeState.READY}
    return not any(one.node in busy or one.node not in view.nodes for one in view.assignments.values())
