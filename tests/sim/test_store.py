"""The simulated store is a store: the contract suite of the real ones, with its faults off, in virtual time."""

from __future__ import annotations

from tests.store.test_contract import *  # noqa: F403
