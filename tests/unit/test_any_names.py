"""Any names and values at a whole tiny study, by `pytest -m fuzz`: it ends in 0, 1 or 2 with a sentence, never in a
traceback, and results.csv, MLflow and Optuna agree about every number.

Numbers are told apart by their values, which are all different, and not by how the tables spell a name.
"""

import csv
import itertools
import json
import math
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from ablation.cli.main import main

pytestmark = pytest.mark.fuzz

TRAINING = """
import json, math
import numpy
from pathlib import Path

KINDS = {
    "float": float, "int": lambda x: x, "float32": numpy.float32, "zero-d": numpy.array, "one": lambda x: numpy.array([x]),
    "bool": bool, "text": str, "none": lambda x: None, "list": lambda x: [x, x], "nan": lambda x: math.nan, "complex": complex,
}

def train(config, seed, report):
    plan = json.loads(Path("plan.json").read_text())
    shift = 1000 * seed + 100 * sum(map(len, map(repr, config.values())))
    value = lambda i, kind: KINDS[kind](shift + i)
    metrics = {name: value(i, kind) for i, (name, kind) in enumerate(plan["returned"])}
    for epoch in plan["epochs"]:
        report(epoch, {plan["primary"]: float(epoch)})
    return metrics
"""
COLUMNS = [
    "error", "seed", "state", "kind", "trial", "arm", "epoch", "phase", "wall_seconds", "epochs_trained", "metric", "index", "mean",
    "count", "acc", "ACC", "best/acc", "metric/error", "loss", "loss/", "/x", "a//b", ".", "..", "a.b", "True", "null", "nan", "1", "-",
]  # fmt: skip
CHARACTERS = st.characters(exclude_categories=("Cs",))
ODD = st.text(CHARACTERS, min_size=1, max_size=8) | st.text(
    "aé日/ .|`$%\\\n\t", min_size=1, max_size=300
)
NAMES = st.sampled_from(COLUMNS) | ODD
LEVEL_VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(-1e6, 1e6)
    | NAMES
    | st.lists(st.integers(0, 9), max_size=2)
)
SOUND = ("float", "int", "float32", "zero-d", "one")
KINDS = st.sampled_from(SOUND + SOUND + ("bool", "text", "none", "list", "nan", "complex"))


USUAL = st.sampled_from(
    [
        "lr",
        "off",
        "on",
        "a",
        "b",
        "mean",
        "index",
        "T",
        "count",
        "name",
        "0",
        "1e3",
        "null",
        "True",
        "metric",
        "level",
    ]
)
USUAL_METRICS = st.sampled_from(
    [
        "acc",
        "error",
        "seed",
        "test/top1",
        "loss",
        "mean",
        "index",
        "kind",
        "1",
        "best/acc",
        "a.b-c@d",
    ]
)


@st.composite
def studies(draw):
    """Most have names that a grid may give to its primary metric, factors and levels, so that they are run."""
    usual = draw(st.booleans() | st.just(True))
    given_names = USUAL if usual else NAMES
    names = [draw(USUAL_METRICS if usual else NAMES)]
    primary = names[0]
    names += draw(st.lists(NAMES.filter(lambda name: name != primary), max_size=4, unique=True))
    factors = draw(st.lists(given_names, min_size=1, max_size=2, unique=True))
    levels = {}
    for factor in factors:
        values = draw(st.lists(LEVEL_VALUES, min_size=2, max_size=2, unique_by=repr))
        level_names = draw(st.lists(given_names, min_size=2, max_size=2, unique=True))
        setting = draw(
            st.sampled_from([f"x{len(levels)}", f"y{len(levels)}.z"]) if usual else NAMES
        )
        levels[factor] = {name: {setting: value} for name, value in zip(level_names, values)}
    return {
        "returned": [
            (name, draw(KINDS) if name != primary or draw(st.booleans()) else "float")
            for name in names
        ],
        "primary": primary,
        "epochs": draw(st.lists(st.integers(1, 4), max_size=3) | st.just([1, 2, 3])),
        "factors": levels,
    }


@contextmanager
def project(folder: Path, migrated: Path, empty_ledger: Path):
    """The working directory as a new project, whose databases have their tables already."""
    before = Path.cwd()
    (folder / "experiments").mkdir(parents=True)
    (folder / ".ablate").mkdir()
    shutil.copy(migrated, folder / "mlflow.db")
    shutil.copy(empty_ledger, folder / ".ablate" / "optuna.db")
    os.chdir(folder)
    sys.modules.pop("fuzzed", None)
    try:
        yield
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def ablate(*arguments: str):
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in (0, 1, 2), done.output
    assert done.output.strip() and "Traceback" not in done.output, done.output
    return done


def recorded() -> dict[str, dict[str, list[float]]]:
    """Trial -> where -> the numbers that are found there: results.csv, MLflow, Optuna."""
    import optuna
    from mlflow import MlflowClient

    found: dict[str, dict[str, list[float]]] = {}
    with open("reports/g/results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len(set(rows[0])) == len(rows[0])
    for row in rows[1:]:
        assert len(row) == len(rows[0])
        trial, arm, _, seed, state = row[:5]
        assert trial == f"{arm}--s{seed}"
        if state == "COMPLETE":
            found[trial] = {"results.csv": [number(cell) for cell in row[5:-4]]}
    client = MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")
    for run in client.search_runs([e.experiment_id for e in client.search_experiments()]):
        name = run.data.tags.get("trial", run.info.run_name)
        if name in found:
            assert run.info.status == "FINISHED"
            found[name]["MLflow"] = list(run.data.metrics.values())
    storage = f"sqlite:///{Path('.ablate/optuna.db').absolute()}"
    for trial in optuna.load_study(study_name="g", storage=storage).trials:
        if trial.user_attrs["trial"] in found:
            found[trial.user_attrs["trial"]]["Optuna"] = [trial.value]
    return found


def number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


COUNT = itertools.count()
UNSHRUNK = [Phase.explicit, Phase.generate]  # to shrink a study takes many minutes


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=UNSHRUNK,
    suppress_health_check=list(HealthCheck),
)
@given(plan=studies())
def test_a_whole_study_under_any_names_ends_with_a_sentence_and_all_tables_agree(
    plan, tmp_path_factory, migrated, empty_ledger
):
    # another folder for each: MLflow keeps a database open as long as its process lives
    folder = tmp_path_factory.getbasetemp() / f"fuzzed{next(COUNT)}"
    with project(folder, migrated, empty_ledger), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Path("fuzzed.py").write_text(TRAINING)
        Path("plan.json").write_text(json.dumps(plan))
        settings_ = {"title": "Any", "subject": "fuzzed:train"}
        Path("experiments/e.yaml").write_text(yaml.safe_dump(settings_), encoding="utf-8")
        grid = {
            "study": "g", "experiment": "e", "metric": {"name": plan["primary"], "goal": "maximize"}, "seeds": 2, "factors": plan["factors"],
        }  # fmt: skip
        Path("experiments/g.yaml").write_text(
            yaml.safe_dump(grid, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        done = ablate("run", "--grid", "experiments/g.yaml", "--jobs", "1")
        event(
            "the grid is refused" if done.exit_code == 2 else f"the study ends in {done.exit_code}"
        )
        if done.exit_code == 2:
            assert not Path("runs/g").exists()
            return
        if not Path("reports/g/results.csv").exists():
            assert done.exit_code == 1
            return
        complete = recorded()
        wanted = [i for i, (_, kind) in enumerate(plan["returned"]) if kind in SOUND]
        assert (done.exit_code == 0) >= bool(complete) or done.exit_code == 1
        for trial, places in complete.items():
            assert set(places) == {"results.csv", "MLflow", "Optuna"}, trial
            (primary,) = places["Optuna"]
            shift = primary - [name for name, _ in plan["returned"]].index(plan["primary"])
            for i in wanted:
                for place in ("results.csv", "MLflow"):
                    hits = sum(
                        math.isclose(value, shift + i, rel_tol=1e-5, abs_tol=1e-4)
                        for value in places[place]
                        if not math.isnan(value)
                    )
                    # the primary metric stands in the table of its best epoch too
                    assert hits >= 1, (trial, place, plan["returned"][i], places)
        assert ablate("status").exit_code == 0
        again = ablate("run", "--grid", "experiments/g.yaml", "--jobs", "1")
        # as texts: NaN differs from itself
        assert again.exit_code == done.exit_code and repr(recorded()) == repr(complete)
        ablate("table")
        ablate("report")


FILE_NAMES = st.sampled_from(
    ["0.png", ".hidden.png", "._0.png", "a.PNG", "b.gif", "c", "d.txt", "Thumbs.db", "sub/e.png"]
) | ODD.map(lambda text: text.replace("/", "_").replace("\0", "")[:60] + ".png")
CLASS_NAMES = st.sampled_from(
    ["cat", "Cat", ".git", "__MACOSX", "caf\u00e9", "cafe\u0301", "@eaDir"]
) | ODD.map(lambda text: text.replace("/", "_").replace("\0", "")[:60])


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    files=st.lists(
        st.tuples(
            st.sampled_from(["train", "test", "val"]), CLASS_NAMES, FILE_NAMES, st.booleans()
        ),
        max_size=12,
    ),
    everywhere=st.lists(CLASS_NAMES, max_size=2, unique=True),
)
def test_images_under_any_names_are_counted_or_refused_with_a_sentence(
    files, everywhere, tmp_path_factory
):
    root = tmp_path_factory.getbasetemp() / "images"
    shutil.rmtree(root, ignore_errors=True)
    (root / "data").mkdir(parents=True)
    wanted = [
        (part, label, f"{i}.png", True)
        for part in ("train", "test")
        for label in everywhere
        for i in range(2)
    ]
    for part, label, name, is_image in [*wanted, *files]:
        path = root / "data" / part / label / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                continue
            if is_image:
                Image.new("RGB", (4, 4), (len(label) % 256, len(name) % 256, 7)).save(path, "PNG")
            else:
                path.write_bytes(b"no image")
        except (OSError, ValueError):  # a name that this file system does not take
            continue
    (root / "e.yaml").write_text(
        "title: E\nsettings:\n  data: {source: folder, path: data}\n  encoder.name: small-cnn\n"
    )
    before = Path.cwd()
    os.chdir(root)
    try:
        described, verified = (
            ablate("data", "describe", "e.yaml"),
            ablate("data", "verify", "e.yaml"),
        )
    finally:
        os.chdir(before)
    assert (described.exit_code == 2) is (verified.exit_code == 2), (
        described.output,
        verified.output,
    )
