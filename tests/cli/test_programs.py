"""Start-up: what `--help` costs, refused configurations, and where the cluster is looked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hsu_cluster.cli.connection import DEFAULT_SERVER, Connection, Flags, resolve
from hsu_core.model.errors import HsuError
from hsu_core.runtime.settings import HostDefaults
from tests.cli.harness import ROOT, run_here

HEAVY = ("aiohttp", "pydantic", "yaml", "psutil", "sqlite3", "prometheus_client", "hsu_agent")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom hsu_cluster.cli.main import run\nstatus = run(['--help'])\n"
        f"print(status, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "0 []\n"
    assert "deploy" in done.stdout


def test_no_verb_shows_the_help_and_ends_with_2() -> None:
    result = run_here()
    assert result.status == 2
    assert "Usage: hsu-cluster" in result.errors


def test_every_verb_explains_itself() -> None:
    verbs = ["deploy", "plan", "validate", "scale", "restart", "stop", "start", "remove", "get", "describe", "status"]
    for verb in [*verbs, "schema", "doctor", "events", "logs", "standalone", "master", "version", "node"]:
        assert run_here(verb, "--help").status == 0


def test_version() -> None:
    assert run_here("version").output.startswith("hsu-cluster 0.")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lisen: 127.0.0.1:0\n", "listen"),
        ("listen: 0.0.0.0:7070\n", "tls is not set"),
        ("node_ttl: 1s\n", "node_ttl"),
        ("- a\n", "settings.invalid"),
    ],
)
def test_a_master_refuses_a_wrong_configuration_with_78(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "master.yaml"
    file.write_text(text)
    result = run_here("master", "--config", str(file))
    assert result.status == 78
    assert told in result.errors


def test_a_master_without_its_file_ends_with_78(tmp_path: Path) -> None:
    result = run_here("master", "--config", str(tmp_path / "nothing.yaml"))
    assert (result.status, "no such file" in result.errors) == (78, True)


def test_standalone_names_a_data_folder_that_it_cannot_make(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run_here("standalone", "--data-dir", str(tmp_path / "file" / "data"), "--listen", "127.0.0.1:0")
    assert result.status == 78
    assert "[settings.data-dir]" in result.errors
    assert "Traceback" not in result.errors


@pytest.mark.parametrize("key", ["password_file", "ca_file"])
def test_a_master_names_the_file_of_its_store_that_is_missing(tmp_path: Path, key: str) -> None:
    missing = tmp_path / "missing"
    config = tmp_path / "master.yaml"
    user = "username: hsu, " if key == "password_file" else ""
    config.write_text(
        f"data_dir: {tmp_path}\nlisten: 127.0.0.1:0\n"
        f"store: {{etcd: {{endpoints: ['https://127.0.0.1:1'], {user}{key}: {missing}}}}}\n"
    )
    result = run_here("master", "--config", str(config))
    assert result.status == 78
    assert str(missing) in result.errors
    assert "[settings.store]" in result.errors


def test_standalone_listens_on_loopback_only(tmp_path: Path) -> None:
    for listen in ("0.0.0.0:7070", ":7070", "somewhere"):
        result = run_here("standalone", "--data-dir", str(tmp_path), "--listen", listen)
        assert result.status == 78
        assert result.errors.startswith("error: cannot listen on ")
    assert list(tmp_path.iterdir()) == []


def test_standalone_checks_its_files_before_it_starts(tmp_path: Path) -> None:
    result = run_here("standalone", "--data-dir", str(tmp_path), "-f", str(tmp_path / "nothing.yaml"))
    assert (result.status, "[input.file]" in result.errors) == (2, True)
    assert run_here("standalone", "--log-level", "loud").status == 78


@pytest.fixture
def host(tmp_path: Path) -> HostDefaults:
    """A user's home of this test."""
    return HostDefaults("a-host", tmp_path, is_root=False)


def _standalone(host: HostDefaults) -> None:
    folder = host.data_dir("hsu-cluster")
    folder.mkdir(parents=True)
    (folder / "endpoint").write_text("http://127.0.0.1:7171\n")
    (folder / "admin.token").write_text("hsu_standalone\n")


def _contexts(host: HostDefaults, text: str) -> None:
    folder = host.home / ".config" / "hsu-cluster"
    folder.mkdir(parents=True)
    (folder / "contexts.yaml").write_text(text)


CONTEXTS = """\
current: plant
contexts:
  plant: {server: "https://m1:7070", token_file: plant.token, ca_file: plant.crt, namespace: line-1}
  lab: {server: "http://127.0.0.1:7272"}
"""


def test_nothing_given_means_the_standalone_cluster_of_this_machine(host: HostDefaults) -> None:
    assert resolve(Flags(), {}, host) == Connection(DEFAULT_SERVER)
    _standalone(host)
    assert resolve(Flags(), {}, host) == Connection("http://127.0.0.1:7171", "hsu_standalone")


def test_another_data_folder(host: HostDefaults, tmp_path: Path) -> None:
    (tmp_path / "endpoint").write_text("http://127.0.0.1:7373\n")
    assert resolve(Flags(), {"HSU_DATA_DIR": str(tmp_path)}, host).server == "http://127.0.0.1:7373"


def test_flags_win_over_the_environment(host: HostDefaults, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hsu_of-the-file\n")
    environment = {"HSU_SERVER": "https://env:1", "HSU_TOKEN": "hsu_env", "HSU_CA_FILE": "env.crt"}
    assert resolve(Flags(), environment, host) == Connection("https://env:1", "hsu_env", Path("env.crt"))
    flags = Flags("https://flag:1", str(tmp_path / "token"), "flag.crt")
    assert resolve(flags, environment, host) == Connection("https://flag:1", "hsu_of-the-file", Path("flag.crt"))


def test_a_context_gives_everything(host: HostDefaults) -> None:
    _contexts(host, CONTEXTS)
    folder = host.home / ".config" / "hsu-cluster"
    (folder / "plant.token").write_text("hsu_plant\n")
    wanted = Connection("https://m1:7070", "hsu_plant", folder / "plant.crt", "line-1")
    assert resolve(Flags(), {}, host) == wanted
    assert resolve(Flags(), {"HSU_CONTEXT": "lab"}, host).server == "http://127.0.0.1:7272"
    assert resolve(Flags(context="lab"), {"HSU_CONTEXT": "plant"}, host).server == "http://127.0.0.1:7272"


def test_a_token_is_not_shown_to_another_server(host: HostDefaults) -> None:
    _standalone(host)
    _contexts(host, CONTEXTS)
    assert resolve(Flags(server="https://stranger:7070"), {}, host).token == ""
    assert resolve(Flags(server="https://stranger:7070", context="plant"), {}, host).token == ""
    assert resolve(Flags(server="http://localhost:7171"), {}, host).token == "hsu_standalone"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (CONTEXTS.replace("current: plant", "current: plnt"), "did you mean plant?"),
        (CONTEXTS.replace("ca_file", "ca_fil"), "did you mean ca_file?"),
        ("contexts: []\n", "no map `contexts`"),
        ("current: a\ncontexts: {a: [1]}\n", "not a map of texts"),
    ],
)
def test_faulty_contexts_are_refused(host: HostDefaults, text: str, told: str) -> None:
    _contexts(host, text)
    with pytest.raises(HsuError, match="cannot use") as caught:
        resolve(Flags(), {}, host)
    assert told in str(caught.value)


def test_a_named_context_without_a_file_is_refused(host: HostDefaults) -> None:
    with pytest.raises(HsuError, match="there is no file"):
        resolve(Flags(context="plant"), {}, host)
