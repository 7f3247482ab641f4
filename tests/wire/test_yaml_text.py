"""Rules of the bounded YAML loader."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hsu_core.model.errors import InvalidManifest
from hsu_core.wire.tree import NODE_LIMIT, SIZE_LIMIT_BYTES
from hsu_core.wire.yaml_text import load_document

BOMB_LIMIT_S = 1.0


def load(text: str | bytes) -> Any:
    return load_document(text, "x.yaml").data


def refusal(text: str | bytes, file: str = "x.yaml") -> str:
    with pytest.raises(InvalidManifest) as caught:
        load_document(text, file)
    fault = caught.value.faults[0]
    assert fault.file == file
    assert fault.fix
    return str(fault)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("010", "010"), ("0o17", 15),
        ("0x10", 16), ("12:30:45", "12:30:45"), ("2026-01-31", "2026-01-31"), ("1_000", "1_000"), ("~", None),
        ("null", None), ("", None), ("true", True), ("False", False), ("tRUE", "tRUE"), ("1.5", 1.5), (".5", 0.5),
        ("1e3", 1000.0), ("-7", -7), ("+7", 7), ("01.5", "01.5"), (".inf", ".inf"), (".nan", ".nan"),
        ("1e999", "1e999"),
        ("'1'", "1"), ('"true"', "true"), ("1.2.3", "1.2.3"), ("=", "="), ("0b11", "0b11"), ("-", None), ("-x", "-x"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_rules_of_yaml_1_2(text: str, value: Any) -> None:
    loaded = load(f"a: {text}") if text != "-" else None
    assert loaded is None or loaded == {"a": value}
    assert loaded is None or type(loaded["a"]) in (type(value), *type(loaded["a"]).__mro__[:1])


def test_block_scalars_are_text() -> None:
    assert load("a: |\n  12\nb: >-\n  true\n") == {"a": "12\n", "b": "true"}


def test_lines_point_at_keys_and_items() -> None:
    document = load_document("a: 1\nb:\n  - x\n  - c: 2\n", "x.yaml")
    assert document.line(("b",)) == 2
    assert document.line(("b", 1, "c")) == 4
    assert document.line(("b", 1, "unknown", 3)) == 4
    assert document.line(("nowhere",)) == 1


def test_anchors_and_aliases_are_shared_values() -> None:
    assert load("a: &x {k: [1, 2]}\nb: *x\n") == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}}


def test_merge_keys_give_way_to_own_keys_and_earlier_maps() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  z: 3\n  <<: [*a, *b]\n"
    assert load(text)["c"] == {"x": 1, "y": 1, "z": 3}


def test_quoted_merge_key_is_an_ordinary_key() -> None:
    assert load("'<<': 1") == {"<<": 1}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: !!python/object/apply:os.system [id]", "tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("a: !!str 1", "tag"),
        ("a: !local x", "tag '!local'"),
        ("a: 1\nb: 2\na: 3", "x.yaml:3: key 'a' stands twice, first in line 1"),
        ("1: x", "key 1 is not text"),
        ("? [a]\n: x", "key a list or map is not text"),
        ("~: x", "key None is not text"),
        ("a: 1\n---\nb: 2", "x.yaml:2: a second document starts here"),
        ("a: *x", "alias *x has no finished anchor"),
        ("a: &x [*x]", "alias *x has no finished anchor"),
        ("a: 9007199254740993", "beyond 2^53"),
        ('a: "\\0"', "NUL"),
        ("a: [1, 2", "a flow sequence (from line 1) did not find"),
        ("a: b: c", "mapping values are not allowed"),
        ("a:\n\t- b", "x.yaml:2: not valid YAML"),
        ("<<: 3", "a merge key `<<` needs a map"),
        ("a: \x07", "not valid YAML"),
        ("[" * 40, "nested deeper than 32"),
        ("a: 1\nb: \ud800", "x.yaml:2: half of a surrogate pair"),
        (b"a: \xff", "byte 3 is not UTF-8"),
        (b"a: b\nc: \xff", "x.yaml:2: byte 8 is not UTF-8"),
        ("a: " + "b" * SIZE_LIMIT_BYTES, "the limit is 1048576"),
    ],
)
def test_bad_yaml_is_refused_with_its_place(text: str | bytes, part: str) -> None:
    assert part in refusal(text)


def test_structural_faults_are_reported_together() -> None:
    with pytest.raises(InvalidManifest) as caught:
        load("a: 1\na: 2\nb: !x 1\n3: c\n")
    assert [fault.line for fault in caught.value.faults] == [2, 3, 4]


def alias_bomb() -> str:
    rows = [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    return "\n".join(["a0: &a0 [x,x,x,x,x,x,x,x,x]", *rows])


def merge_bomb() -> str:
    rows = [f"a{i}: &a{i} {{k{i}: *a{i - 1}, <<: [{','.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 25)]
    return "\n".join(["a0: &a0 {k: 1, l: 2}", *rows])


BOMBS = {
    "aliases": alias_bomb(),
    "merges": merge_bomb(),
    "flow lists": "[" * 500_000,
    "flow maps": "{a: " * 200_000,
    "block lists": "- " * 400_000,
    "complex keys": "? " * 400_000,
    "items": "a:\n" + "- x\n" * 200_000,
    "keys": "".join(f"k{i}: 1\n" for i in range(80_000)),
    "json lists": '{"a":' * 150_000,
    "json items": '{"a":[' + "1," * 400_000,
    "indentation": "".join(" " * i + "a:\n" for i in range(1400)),
    "documents": "---\n" * 200_000,
}


@contextmanager
def without_older_garbage() -> Iterator[None]:
    """Leave what other tests hold out of the collector's work: it is not the parser's."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_within_a_second(name: str) -> None:
    with without_older_garbage():
        start_s = time.process_time()
        refusal(BOMBS[name])
        assert time.process_time() - start_s < BOMB_LIMIT_S


@pytest.mark.parametrize(
    "text",
    ["a: " + "b" * 1_000_000, "a: >\n" + "  b\n" * 200_000, "\n" * 1_000_000, "#" * 1_000_000, "a: " + "9" * 999_999],
)
def test_large_harmless_text_loads_within_a_second(text: str) -> None:
    with without_older_garbage():
        start_s = time.process_time()
        load(text)
        assert time.process_time() - start_s < BOMB_LIMIT_S


def test_a_list_at_the_limit_of_nodes_loads() -> None:
    assert len(load("\n".join(["- x"] * (NODE_LIMIT - 1)))) == NODE_LIMIT - 1


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
TREES = st.recursive(
    WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_quoted_text_is_never_anything_else(tree: Any) -> None:
    assert load(yaml.safe_dump(tree, allow_unicode=True, default_style='"')) == tree


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=list("ab:-{}[]&*!?|>'\"#%@`, \n\t<0179.~xé"), max_size=60))
def test_any_text_gives_data_or_faults(text: str) -> None:
    with contextlib.suppress(InvalidManifest):
        load_document(text, "x.yaml")
