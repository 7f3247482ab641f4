"""Rules of the sources that no linter has: sizes, names, who may touch what. Each failure says what to do instead."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tidy.sources import PACKAGES, calls, imports, name, python_files, text_files, tree, uses

LINE_WARNING = 400
LINE_LIMIT = 600

LONG_MODULES: dict[str, str] = {}
"""Modules of the product above LINE_WARNING that may stay so: name to reason."""

REFUSED_MODULE_NAMES = frozenset({"utils", "util", "common", "helpers", "helper", "manager", "handler", "data", "info"})

TASK_STARTERS = frozenset({"create_task", "ensure_future"})

ENVIRONMENT_READERS = (
    "hsu_core/runtime/settings.py",
    "hsu_core/wire/settings.py",
    "hsu_cluster/cli/",
    "hsu_agent/commands.py",
    "hsu_agent/local/commands.py",
    "hsu_agent/local/reader.py",
    "hsu_agent/daemon.py",
    "hsu_agent/keeper.py",
    "hsu_agent/host/",
)
"""Who may look at `os.environ`: settings, the command line, and whatever starts processes or hands over to one."""


def _report(found: Iterator[tuple[Path, int, str]], advice: str) -> None:
    faults = [f"{name(path)}:{line}: {text}" for path, line, text in found]
    assert not faults, "\n".join([advice, *faults])


def test_no_module_is_long() -> None:
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    too_long = {path: lines for path, lines in lengths.items() if lines > LINE_LIMIT}
    assert not too_long, f"split these: a module has {LINE_LIMIT} lines at the very most"
    long = {path: lines for path, lines in lengths.items() if lines > LINE_WARNING and path.startswith(PACKAGES)}
    assert long.keys() <= LONG_MODULES.keys(), "split these, or state the reason in LONG_MODULES"
    assert LONG_MODULES.keys() <= long.keys(), "these are short now: take them out of LONG_MODULES"


def test_every_module_of_the_product_has_a_docstring() -> None:
    without = [name(path) for path in python_files(*PACKAGES) if not ast.get_docstring(tree(path))]
    assert not without, "say in the module's docstring why the file exists"


def test_every_public_function_and_class_of_the_product_has_a_docstring() -> None:
    def found() -> Iterator[tuple[Path, int, str]]:
        for path in python_files(*PACKAGES):
            for node in _public_definitions(tree(path)):
                if not ast.get_docstring(node):
                    yield path, node.lineno, node.name

    _report(found(), "the first line of a docstring says what it does or returns")


def _public_definitions(
    parent: ast.Module | ast.ClassDef,
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in parent.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public_definitions(node)


def test_module_names_are_nouns_of_the_field() -> None:
    refused = [name(path) for path in python_files() if path.stem in REFUSED_MODULE_NAMES]
    assert not refused, "name a module after what it holds"


def test_tests_use_fakes_and_no_mocks() -> None:
    def found() -> Iterator[tuple[Path, int, str]]:
        for path in python_files():
            yield from (
                (path, line, text) for line, text in imports(path) if text.startswith(("unittest.mock", "mock."))
            )
            yield from ((path, line, text) for line, text in uses(path) if text.endswith("monkeypatch.setattr"))
            yield from ((path, line, text) for line, text, _ in calls(path) if text.split(".")[-1] == "MagicMock")

    _report(found(), "write a fake and prove it with the contract suite of the real thing")


def test_every_task_has_an_owner() -> None:
    def found() -> Iterator[tuple[Path, int, str]]:
        for path in python_files(*PACKAGES):
            if name(path).startswith("hsu_core/runtime/"):
                continue
            for line, text, _ in calls(path):
                owner, _, verb = text.rpartition(".")
                if verb in TASK_STARTERS and owner in ("asyncio", "", "loop", "self._loop"):
                    yield path, line, text

    _report(found(), "start it in an asyncio.TaskGroup: the function that starts a task outlives it")


def test_only_settings_and_process_starters_read_the_environment() -> None:
    def found() -> Iterator[tuple[Path, int, str]]:
        for path in python_files(*PACKAGES):
            if name(path).startswith(ENVIRONMENT_READERS):
                continue
            yield from ((path, line, text) for line, text in uses(path) if text in ("os.environ", "os.getenv"))

    _report(found(), "let settings read it once and pass the value down")


def test_tests_wait_for_conditions_and_do_not_sleep() -> None:
    def found() -> Iterator[tuple[Path, int, str]]:
        for path in python_files("tests"):
            if not path.name.startswith(("test_", "conftest")):
                continue  # polls with deadlines live in support modules
            yield from ((path, line, text) for line, text, _ in calls(path) if text == "time.sleep")

    _report(found(), "wait for a condition with a deadline of a support module")


def test_nothing_goes_through_a_shell() -> None:
    def found() -> Iterator[tuple[Path, int, str]]:
        for path in python_files(*PACKAGES, "tools"):
            for line, text, call in calls(path):
                if text in ("os.system", "os.popen", "asyncio.create_subprocess_shell") or any(
                    keyword.arg == "shell" and getattr(keyword.value, "value", True) for keyword in call.keywords
                ):
                    yield path, line, text

    _report(found(), "pass a list of arguments: a shell reads user input as code")


def test_cancellation_is_never_swallowed() -> None:
    def found() -> Iterator[tuple[Path, int, str]]:
        for path in python_files(*PACKAGES):
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.ExceptHandler) and node.type is None and not _raises(node):
                    yield path, node.lineno, "except:"
                if isinstance(node, ast.ExceptHandler) and node.type is not None:
                    caught = ast.unparse(node.type)
                    if "BaseException" in caught and "Group" not in caught and not _raises(node):
                        yield path, node.lineno, f"except {caught}"

    _report(found(), "catch Exception, or raise again after cleaning up")


def _raises(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(node, ast.Raise) for node in ast.walk(handler))


_MACHINE_PATHS = re.compile(r"(?<![\w.}])/(?:wo[r]k|root)/")


@pytest.mark.parametrize("path", text_files(), ids=name)
def test_nothing_names_a_folder_of_one_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8", errors="replace")
    found = [f"{name(path)}:{text.count(chr(10), 0, match.start()) + 1}" for match in _MACHINE_PATHS.finditer(text)]
    assert not found, "write paths relative to the project or the user's home"
