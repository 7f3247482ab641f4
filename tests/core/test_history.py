"""The checker of histories finds each wrong history that is planted, and passes the right ones."""

from __future__ import annotations

import math
import random

import pytest

from tests.support.history import (
    Outcome,
    Put,
    Read,
    TermSeen,
    Write,
    faults_of_registers,
    faults_of_terms,
)

ACK, REFUSED, UNKNOWN = Outcome.ACKNOWLEDGED, Outcome.REFUSED, Outcome.UNKNOWN


def write(token: str, began: float, ended: float, revision: int = 0, outcome: Outcome = ACK) -> Write:
    return Write("r", token, began, ended, outcome, revision)


def put(token: str, revision: int) -> Put:
    return Put("r", token, revision)


RIGHT = (
    [write("a", 0, 1, 5), write("b", 2, 4, 9), write("c", 3, math.inf, outcome=UNKNOWN), write("d", 3, 5, 0, REFUSED)],
    [Read("r", 1.5, 1.8, 5), Read("r", 4.5, 5, 9), Read("r", 2.5, 3, 5)],
    [put("a", 5), put("b", 9)],
)


def test_a_right_history_passes() -> None:
    assert faults_of_registers(*RIGHT) == []


def test_an_unknown_write_may_be_there_and_may_be_read() -> None:
    writes, reads, log = RIGHT
    assert faults_of_registers(writes, [*reads, Read("r", 6, 7, 12)], [*log, put("c", 12)]) == []


def test_concurrent_writes_may_be_in_either_order() -> None:
    log = [put("a", 9), put("b", 5)]
    assert faults_of_registers([write("a", 0, 3, 9), write("b", 1, 2, 5)], [], log) == []


@pytest.mark.parametrize(
    ("writes", "reads", "log", "word"),
    [
        ([write("a", 0, 1, 5)], [], [], "is lost"),
        ([write("a", 0, 1, 5)], [], [put("a", 5), put("a", 8)], "applied 2 times"),
        ([write("a", 0, math.inf, outcome=UNKNOWN)], [], [put("a", 5), put("a", 8)], "applied 2 times"),
        ([write("a", 0, 1, outcome=REFUSED)], [], [put("a", 5)], "refused and is there"),
        ([write("a", 0, 1, 3)], [], [put("a", 5)], "acknowledged at revision 3 and is at 5"),
        ([], [], [put("a", 5)], "nobody wrote"),
        ([write("a", 0, 1, 9), write("b", 2, 3, 5)], [], [put("b", 5), put("a", 9)], "after 9 had been seen"),
        ([write("a", 0, 1, 5)], [Read("r", 2, 3, 7)], [put("a", 5)], "which the store never had"),
        (
            [write("a", 0, 1, 5), write("b", 2, 3, 9)],
            [Read("r", 4, 5, 5)],
            [put("a", 5), put("b", 9)],
            "a read was answered with revision 5 after 9",
        ),
        (
            [write("a", 0, 1, 5), write("b", 2, 9, 9)],
            [Read("r", 3, 4, 9), Read("r", 5, 6, 5)],
            [put("a", 5), put("b", 9)],
            "a read was answered with revision 5 after 9",
        ),
    ],
)
def test_a_planted_fault_is_found(writes: list[Write], reads: list[Read], log: list[Put], word: str) -> None:
    faults = faults_of_registers(writes, reads, log)
    assert len(faults) == 1
    assert word in faults[0]


def test_a_read_that_says_it_is_stale_may_be_old_but_not_invented() -> None:
    writes, log = [write("a", 0, 1, 5), write("b", 2, 3, 9)], [put("a", 5), put("b", 9)]
    assert faults_of_registers(writes, [Read("r", 4, 5, 5, is_stale=True)], log) == []
    assert faults_of_registers(writes, [Read("r", 4, 5, 6, is_stale=True)], log) != []


@pytest.mark.parametrize("seed", range(20))
def test_of_a_real_register_every_history_passes_and_every_loss_is_found(seed: int) -> None:
    chance = random.Random(seed)
    writes, reads, log, revision = [], [], [], 0
    for number in range(200):  # each takes effect at its number's instant, and is seen as lasting around it
        began, ended = number - chance.random() * 3, number + chance.random() * 3
        if chance.random() < 0.5 or not log:
            revision += chance.randint(1, 3)
            log.append(put(str(number), revision))
            is_known = chance.random() < 0.8
            writes.append(
                write(str(number), began, ended if is_known else math.inf, revision, ACK if is_known else UNKNOWN)
            )
        else:
            reads.append(Read("r", began, ended, revision))
    assert faults_of_registers(writes, reads, log) == []
    lost = chance.choice([each for each in writes if each.outcome is ACK])
    assert faults_of_registers(writes, reads, [each for each in log if each.token != lost.token]) != []


def test_terms_never_go_back() -> None:
    assert faults_of_terms([TermSeen(0, 1, 4), TermSeen(0.5, 3, 9), TermSeen(2, 4, 4), TermSeen(5, 6, 9)]) == []
    assert faults_of_terms([TermSeen(0, 1, 9), TermSeen(2, 3, 4)]) == ["term 4 was answered after term 9"]
