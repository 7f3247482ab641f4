"""HSU's `process_file` block, in its own words and in ours."""

from __future__ import annotations

import pytest

from hsu_core.model.errors import InvalidManifest
from hsu_core.model.process_files import ProcessFileSpec, Scope
from hsu_core.model.spec import WorkerSpec
from hsu_core.wire.manifest import parse_manifest


def parsed(block: str) -> WorkerSpec:
    control = f"{{execution: {{executable_path: /bin/true}}, process_file: {block}}}"
    text = f"app: shop\nworkers:\n- id: web\n  unit: {{managed: {{control: {control}}}}}\n"
    return parse_manifest(text.encode(), file="shop.yaml", environment={}, read_file=None).spec.workers[0]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("{}", ProcessFileSpec()),
        ("{scenario: daemon}", ProcessFileSpec(Scope.SYSTEM)),
        ("{servicecontext: session}", ProcessFileSpec(Scope.SESSION)),
        ("{scenario: Test, appname: ignored}", ProcessFileSpec(Scope.DEVELOPMENT)),
        (
            "{base_directory: /run/x, app_name: shop, use_subdirectory: true}",
            ProcessFileSpec(Scope.USER, "/run/x", "shop"),
        ),
        ("{basedirectory: /run/x}", ProcessFileSpec(Scope.USER, "/run/x")),
    ],
)
def test_words_have_their_meaning(block: str, expected: ProcessFileSpec) -> None:
    assert parsed(block).process_file == expected


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ("{scenario: deamon}", "did you mean daemon?"),
        ("{basedirectory: run/x}", "not absolute"),
        ("{usesubdirectory: true, appname: ../etc}", "no name of a folder"),
        ("{folder: /run}", "folder"),
    ],
)
def test_faults_are_named(block: str, text: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parsed(block)
    assert text in "\n".join(map(str, caught.value.faults))
