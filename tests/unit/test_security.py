"""No code in a file is run, nobody else on the network is served, and no password is left anywhere."""

import ast
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from toy_project import ToyProject

from ablation.cli.main import main
from ablation.errors import InputError
from ablation.reporting import figures
from ablation.storage.files import warn_once
from ablation.storage.project import ProjectPaths
from ablation.study import opening
from ablation.study.opening import provenance
from ablation.tracking import delivery, mlflow_ui
from ablation.tracking.ledger import LedgerUnavailable, storage_url, update_ledger
from ablation.tracking.mlflow_places import TrackingUnavailable
from ablation.tracking.mlflow_sync import Tracker

ROOT = Path(__file__).parents[2]
OURS = [
    path
    for folder in ("ablation", "core", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
SECRET = "hunter2-and-more"


# --- code


def calls(tree: ast.AST):
    """(dotted name, call) of every call by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def rules_broken(text: str) -> list[str]:
    """What a module does that could run code which somebody else has put into a file or an option."""
    tree, broken = ast.parse(text), []
    for node in ast.walk(tree):
        modules = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        broken += [f"imports {module}" for module in modules if module.split(".")[0] in PICKLES]
    for name, call in calls(tree):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in (
            "eval",
            "exec",
            "compile",
            "os.system",
            "os.popen",
            "yaml.load",
            "yaml.load_all",
            "yaml.unsafe_load",
            "yaml.full_load",
            "torch.jit.load",
        ):
            broken.append(f"calls {name}")
        if name == "torch.load" and given.get("weights_only") != "True":
            broken.append("calls torch.load without weights_only=True")
        if name.endswith("np.load") and given.get("allow_pickle", "False") != "False":
            broken.append("lets NumPy load pickles")
        if given.get("shell", "False") != "False":
            broken.append("starts a shell")
        if name.endswith(("read_pickle", "to_pickle")):
            broken.append(f"calls {name}")
    return broken


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_code_out_of_files(path):
    assert rules_broken(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from pickle import loads", "import a, dill as b", "def f():\n    import marshal", "eval('1')", "yaml.load(x, Loader=yaml.Loader)",
     "torch.load(path)", "torch.load(path, weights_only=False)", "subprocess.run(x, shell=True)", "pd.read_pickle(x)", "np.load(x, allow_pickle=True)"],
)  # fmt: skip
def test_the_rules_see_what_they_forbid(text):
    assert rules_broken(text)
    assert not rules_broken(
        "import json\ntorch.load(path, weights_only=True)\nyaml.safe_load(x)\nsubprocess.run(x)\nmodel.eval()"
    )


def test_the_interface_is_served_to_this_machine_alone(uri, monkeypatch):
    started = []

    class Server:
        pid, returncode = -1, 0

        def __init__(self, command, **options):
            started.append((command, options))

        def poll(self):
            return 0

        def wait(self, *_):
            return 0

    monkeypatch.setattr(mlflow_ui.subprocess, "Popen", Server)
    monkeypatch.setattr(mlflow_ui.os, "killpg", lambda *_: None)
    monkeypatch.setattr(mlflow_ui.signal, "signal", lambda *_: None)
    CliRunner().invoke(main, ["ui", "--port", "45873"])
    [(command, options)] = started
    assert command[command.index("--host") + 1] == "127.0.0.1" and command.count("--host") == 1
    assert not options.get("shell") and options["env"]["MLFLOW_BACKEND_STORE_URI"] == uri
    assert not any(
        "sqlite" in word for word in command
    )  # what a process is started with is shown to everybody


# --- credentials

URLS = {
    "a server": f"http://ada:{SECRET}@127.0.0.1:9/mlflow",
    "a database without its driver": f"sqlserver://ada:{SECRET}@127.0.0.1:9/db",
    "PostgreSQL": f"postgresql://ada:{SECRET}@127.0.0.1:9/db",
    "a password in the query": f"postgresql://127.0.0.1:9/db?user=ada&password={SECRET}",
    "a password with a slash": f"http://ada:{SECRET}/x@127.0.0.1:9",
    "a password with an at sign": f"postgresql://ada:x@{SECRET}@127.0.0.1:9/db",
    "a password with an at sign and a slash": f"postgresql://ada:x@/{SECRET}@127.0.0.1:9/db",
    "a port that is none": f"postgresql://ada:x@127.0.0.1:{SECRET}@h/db",
    "a scheme that is none": f"nonsense://ada:{SECRET}@127.0.0.1/db",
    "a token": f"https://127.0.0.1:9/?access_token={SECRET}",
}


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    """MLflow tries a database that refuses it for minutes."""
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)


def everything_left(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("url", URLS.values(), ids=URLS.keys())
def test_no_password_of_a_store_is_shown(finished_toys, monkeypatch, tmp_path, caplog, url):
    """Whatever the URL leads to: nothing, or an error of who knows which library."""
    toy = ToyProject(tmp_path, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    folder = ProjectPaths(finished_toys).runs("toy")
    with pytest.raises(TrackingUnavailable) as tracking:
        Tracker().sync(folder)
    if not url.startswith(("http", "nonsense")):
        with pytest.raises(LedgerUnavailable) as ledger:
            update_ledger(url, folder)
        assert SECRET not in str(ledger.value)
    with pytest.raises((InputError, LedgerUnavailable)) as team:
        update_ledger(storage_url(url), folder)
    assert SECRET not in str(team.value)
    done = CliRunner().invoke(main, ["ui", "--port", "45874"])
    assert done.exit_code in (0, 1) and isinstance(done.exception, SystemExit | None), done.exc_info
    assert SECRET not in str(tracking.value) + done.output + caplog.text
    assert toy.root == tmp_path


@pytest.mark.long
def test_a_run_leaves_no_password_behind(toy, monkeypatch, capfd, caplog):
    """The command line and the environment have one, a trial's error quotes it: it is in no file and on no console."""
    url = URLS["PostgreSQL"]
    arguments = [
        "run",
        "--grid",
        "grid.yaml",
        "--as",
        "secret",
        "--storage",
        url,
        "-S",
        f"note={url}?sslpassword={SECRET}",
    ]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ablate", *arguments])
    monkeypatch.setattr(opening, "provenance", provenance)  # which records it
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    monkeypatch.setattr(delivery, "SYNC_SECONDS", 0.0)
    monkeypatch.setattr(figures, "draw", lambda *arguments: [])
    warn_once.cache_clear()

    def fail(*_arguments, **_options):
        raise ArithmeticError(f"connection to {url} failed")

    monkeypatch.setattr(type(toy.subject), "advance", fail)
    toy.store.clear()
    toy.work_here(monkeypatch)
    outputs = [
        CliRunner().invoke(main, ["run", "--grid", "grid.yaml", "--as", "secret", "--jobs", "1"])
    ]
    assert (
        outputs[0].exit_code == 1
        and "FAILED" in outputs[0].output
        and "is not available" in outputs[0].output
    ), outputs[0].output
    for command in (
        "status secret",
        "report secret --html",
        "sync secret",
        "compare secret toy",
        "doctor",
        "ui --port 45875",
        "cache",
        "plan --grid grid.yaml",
    ):
        outputs.append(CliRunner().invoke(main, command.split()))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # and what is delivered to a store that is there
    outputs.append(CliRunner().invoke(main, ["sync", "secret"]))
    assert outputs[-1].exit_code == 0, outputs[-1].output
    said = capfd.readouterr()
    shown = (
        "".join(done.output + str(done.exception) for done in outputs)
        + said.out
        + said.err
        + caplog.text
    )
    assert "postgresql://***@127.0.0.1:9/db" in shown and SECRET not in shown
    files = everything_left(toy.root)
    assert "--storage postgresql://***@" in files["runs/secret/study.json"].decode()
    assert {
        "mlflow.db",
        ".ablate/optuna.db",
        "reports/secret/report.md",
        "reports/secret/report.html",
    } <= set(files)
    assert [name for name, content in files.items() if SECRET.encode() in content] == []
