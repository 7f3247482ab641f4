"""What all converters have in common: transcripts of whole files, strict validity, kinds, and no traceback ever."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hsu_core.model.errors import InvalidInput, InvalidManifest
from hsu_core.wire.foreign import Conversion, ForeignFile, Notes, Place, native
from hsu_core.wire.foreign_kinds import CONVERTERS, kind_of, one_kind_of
from hsu_core.wire.foreign_pm2_keys import ALIASES, KNOWN
from hsu_core.wire.foreign_supervisord import PROGRAM_KEYS
from hsu_core.wire.foreign_systemd import SERVICE_KEYS
from hsu_core.wire.foreign_systemd_keys import NOT_CARRIED
from tests.wire.foreign_builders import (
    FIXTURES,
    converted,
    converted_fixtures,
    execution_of,
    faults_of,
    host,
    read_strictly,
    worker_of,
)

CASES = {
    "supervisord": ("supervisord", "supervisord.conf"),
    "supervisord-included": ("supervisord", "conf.d/worker.conf", "conf.d/my.reports.conf"),
    "pm2-ecosystem": ("pm2", "ecosystem.json"),
    "pm2-list": ("pm2", "pm2-list.json"),
    "pm2-single": ("pm2", "pm2.single.yml"),
    "systemd-shop": ("systemd", "shop-db.service", "shop-migrate.service", "shop-web@.service"),
    "systemd-notify": ("systemd", "shop-db.service"),
}
"""Transcripts: the kind and the files that are given together."""

MANY = settings(max_examples=150, deadline=None)


@pytest.mark.parametrize("name", CASES)
def test_transcript_of_real_files(name: str, golden: Callable[[str, str], None]) -> None:
    kind, *files = CASES[name]
    found = converted_fixtures(kind, *files)
    golden(f"foreign-{name}", found.text + "\n" + "\n".join(str(warning) for warning in found.warnings))


@pytest.mark.parametrize("name", CASES)
def test_the_manifest_of_a_file_passes_strict_validation(name: str) -> None:
    kind, *files = CASES[name]
    found = converted_fixtures(kind, *files)
    parsed = read_strictly(found)
    assert parsed.warnings == ()
    assert [worker.id for worker in parsed.spec.workers] == [worker["id"] for worker in found.manifest["workers"]]


def test_every_fixture_is_in_a_case() -> None:
    used = {file for _, *files in CASES.values() for file in files} | {"web.env"}
    found = [path.relative_to(FIXTURES) for path in FIXTURES.rglob("*") if path.is_file()]
    assert {str(path) for path in found if path.parts[0] != "process"} == used


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("shop.conf", "; a comment\n[program:web]\ncommand=web\n", "supervisord"),
        ("shop.ini", "[supervisord]\n[include]\nfiles=*\n", "supervisord"),
        ("shop.service", "", "systemd"),
        ("shop.json", '{"apps": []}', "pm2"),
        ("shop.json", '[{"script": "a.js"}]', "pm2"),
        ("shop.json", '{"script": "a.js"}', "pm2"),
        ("ecosystem.config.js", "module.exports = {}", "pm2"),
        ("shop.json", '{"workers": []}', "hsu"),
        ("shop.json", "{", "hsu"),
        ("shop.yaml", "apps: []", "hsu"),
        ("shop.conf", "workers: []", "hsu"),
        ("program.yaml", "[program:web]", "hsu"),
    ],
)
def test_kind_of_a_file(name: str, text: str, kind: str) -> None:
    assert kind_of(ForeignFile(f"/etc/{name}", text.encode())) == kind


def test_files_of_several_kinds_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"a\.service is systemd.*--from"):
        one_kind_of([ForeignFile("a.service", b""), ForeignFile("b.json", b'{"apps": []}')])


def test_two_workers_of_one_name_are_refused() -> None:
    (fault,) = faults_of("pm2", '{"apps": [{"script": "a b.js", "name": "x y"},\n{"script": "b", "name": "x-y"}]}')
    assert "shop.json:2" in fault
    assert "worker x-y is in shop.json:1 too" in fault


def test_text_that_looks_like_ours_is_escaped_or_told_of() -> None:
    notes = Notes("x")
    assert native("a ${HOME} $${x}", Place("f", "p"), notes) == "a $${HOME} $$${x}"
    assert not notes.warnings
    assert native("{slot}", Place("f", "p"), notes) == "{slot}"
    assert "will be filled in by the agent" in str(notes.warnings[0])
    native("{port.http}", Place("f", "p"), notes)
    native("$\0{slot}\0", Place("f", "p"), notes)
    assert [fault.text[:25] for fault in notes.faults] == ["{port.http} would be take", "a `$` right before a vari"]


@pytest.mark.parametrize("kind", CONVERTERS)
def test_an_empty_file_is_refused(kind: str) -> None:
    assert faults_of(kind, "" if kind != "pm2" else "[]")


@pytest.mark.parametrize("kind", CONVERTERS)
def test_bytes_that_are_no_text_are_refused(kind: str) -> None:
    names = {"supervisord": "a.conf", "pm2": "a.json", "systemd": "a.service"}
    for content in (
        b"\xff\xfe",
        b"[Service]\nExecStart=/bin/a\0b\n",
        b"[program:a]\ncommand=a\0b\n",
        b"a" * (2**20 + 1),
    ):
        with pytest.raises(InvalidManifest):
            CONVERTERS[kind]([ForeignFile(names[kind], content)], host({}), "")


def _holds(kind: str, text: str, name: str = "") -> Conversion | None:
    """Convert; what comes out is valid strictly, or the file is refused with faults."""
    refusal: list[InvalidManifest] = []
    try:
        found = converted(kind, text, name)
    except InvalidManifest as error:
        refusal.append(error)
    if refusal:
        assert refusal[0].faults
        return None
    named = {warning.text.split()[1]: "x" for warning in found.warnings if warning.text.startswith("variable ")}
    assert read_strictly(found, named | {"HOME": "/root"}).warnings == ()
    return found


WORDS = st.text(max_size=30) | st.sampled_from(
    ["", "0", "1", "-1", "true", "no", "5s", "10MB", "%(ENV_A)s", "%(process_num)02d", "%", "%%", "$A ${B} $$",
     "%n%i%h",
     "{slot}", "{port.a}", "a 'b", '"a" b', "/bin/sh -c 'echo a'", "-@/bin/a b ; /bin/b", "infinity", "50%", "a=b,c=d",
     "\\x41\\u0041\\101\\s", "SIGTERM", "TERM", "9", "1e9", "99999999999999999999", "0-3", "~", "..", "\\", "${", "$"]
)  # fmt: skip
LINE = WORDS.map(lambda text: text.replace("\n", " "))


@MANY
@given(st.sampled_from(sorted(CONVERTERS)), st.text(max_size=200))
def test_arbitrary_text_is_refused_or_converted(kind: str, text: str) -> None:
    _holds(kind, text)


@MANY
@given(
    st.dictionaries(st.sampled_from(sorted(PROGRAM_KEYS)), LINE, max_size=3),
    st.sampled_from(["A=b", 'A="x y",B=%(ENV_A)s', "", "="]),
    st.sampled_from(["web", "my.web", "0"]) | LINE,
)
def test_arbitrary_values_of_a_program(keys: dict[str, str], environment: str, name: str) -> None:
    lines = [f"{key}={value}" for key, value in ({"command": "/bin/web --port 80"} | keys).items()]
    _holds("supervisord", "\n".join([f"[supervisord]\nenvironment={environment}\n[program:{name}]", *lines]))


@MANY
@given(st.dictionaries(st.sampled_from(sorted(SERVICE_KEYS | NOT_CARRIED.keys())), LINE, max_size=3), LINE)
def test_arbitrary_values_of_a_service(keys: dict[str, str], after: str) -> None:
    lines = [f"{key}={value}" for key, value in ({"ExecStart": "/bin/web --port 80"} | keys).items()]
    _holds("systemd", "\n".join([f"[Unit]\nAfter={after}\n[Service]", *lines]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@MANY
@given(st.dictionaries(st.sampled_from(sorted(KNOWN | ALIASES.keys())), JSON, max_size=3), JSON)
def test_arbitrary_values_of_an_app(keys: dict[str, object], other: object) -> None:
    _holds("pm2", json.dumps({"apps": [{"script": "web.js"} | keys], "more": other}))
    _holds("pm2", json.dumps(other))
    _holds("pm2", json.dumps({"apps": other}))


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="{}"), min_size=1, max_size=20)


@MANY
@given(TEXTS)
def test_any_argument_comes_through_pm2_unchanged(argument: str) -> None:
    text = json.dumps({"script": "web.js", "args": [argument], "env": {"A": f"${{{argument}}}"}})
    (worker,) = read_strictly(converted("pm2", text)).spec.workers
    assert worker.execution.args[1:] == (argument,)
    assert dict(worker.execution.environment)["A"] == f"${{{argument}}}"


@MANY
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="{}"), min_size=1, max_size=20))
def test_any_quoted_argument_comes_through_the_others_unchanged(argument: str) -> None:
    written = "'" + argument.replace("%", "%%").replace("'", "'\\''") + "'"
    (worker,) = read_strictly(converted("supervisord", f"[program:a]\ncommand=/bin/a {written}")).spec.workers
    assert worker.execution.args == (argument,)
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$").replace("%", "%%")
    (worker,) = read_strictly(converted("systemd", f'[Service]\nExecStart=/bin/a "{escaped}"')).spec.workers
    assert worker.execution.args == (argument,)


def test_the_text_of_a_conversion_is_its_manifest() -> None:
    found = converted("pm2", '{"script": "web.js"}')
    assert yaml.safe_load(found.text) == found.manifest
    assert execution_of(worker_of("pm2", '{"script": "web.js"}'))["executable_path"] == "node"
