"""Finding what to ablate by name, and a plain training function as a subject."""

import importlib
import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_trials import JOINT, ORIGINAL, STAGED, MemoryStore, chain, run

from ablation import PACKAGE
from ablation.errors import InputError
from ablation.subject.command import Command
from ablation.subject.imported import project_sources
from ablation.subject.loading import FunctionSubject, load_subject
from ablation.subject.own import Place
from core.config.parsing import Fault
from core.subject import SUBJECT

MODULE = '''
"""Code of somebody's own."""

{imports}


def train(config, seed, report):
    for epoch in range(1, config.get("epochs", 2) + 1):
        report(epoch, {{"loss": config["lr"] / epoch + seed}})
    return {{"accuracy": 90 + seed, "loss": config["lr"]}}


class Subject:
    """Not a function: taken as it is."""

    def check(self, settings):
        return []

    def chain(self, settings, seed, records):
        return []

    def advance(self, settings, seed, until, store, report):
        pass


SUBJECT = Subject()
LEARNING_RATE = 0.1
'''


@pytest.mark.parametrize(
    ("n_max", "imbalance", "more", "what"),
    [
        (100, 10, {}, "no class has"),
        (110, 1, {}, "every class has"),
        (110, 10, {}, None),
        (100, 10, {"losses.radius": 0}, None),
        (100, 10, {"method": "staged"}, None),
        (100, 10, {"losses.radius_from": "images"}, None),
    ],
)
def test_the_radius_of_classes_with_many_images_needs_some_and_others(n_max, imbalance, more, what):
    profile = {"data.n_max": n_max, "data.imbalance_factor": imbalance, "data.n_test": 10}
    faults = SUBJECT.check(JOINT | profile | {"losses.radius_from": "many"} | more)
    message = f"'many' changes nothing: {what} more than 100 images; choose images or views"
    assert faults == ([Fault("losses.radius_from", message)] if what else [])


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of somebody's own onto the import path; returns its name."""
    monkeypatch.syspath_prepend(tmp_path)
    names = iter(f"own_code_{tmp_path.name.replace('-', '_')}_{i}" for i in range(9))

    def write(imports="", code=MODULE):
        name = next(names)
        (tmp_path / f"{name}.py").write_text(
            code.format(imports=imports) if code is MODULE else code, encoding="utf-8"
        )
        return name

    return write


def problem(name):
    with pytest.raises(InputError) as error:
        load_subject(name)
    (found,) = error.value.problems
    assert found.key == "subject"
    return found.message


def ran(subject, settings, seed=0):
    """The record of a one-link trial, and what was reported."""
    (link,) = subject.chain(settings, seed, lambda key: None)
    store, reported = MemoryStore(), []
    place = Place("a", Path("work"))
    subject.advance(settings, seed, link.key, store, lambda *each: reported.append(each), place)
    assert reported == [(link.key, store.record(link.key))]
    return store, link, store.record(link.key)


# --- finding it


def test_core_is_built_in():
    assert load_subject("core") is SUBJECT


def test_a_function_becomes_a_subject_and_a_subject_stays_one(module):
    name = module()
    assert isinstance(load_subject(f"{name}:train"), FunctionSubject)
    assert type(load_subject(f"{name}:SUBJECT")).__name__ == "Subject"


def test_names_that_cannot_be_found_are_errors_that_say_why(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = module()
    assert problem("mine") == "'mine' is neither 'core' nor of the form package.module:function"
    assert (
        problem(f"{name}:")
        == f"'{name}:' is neither 'core' nor of the form package.module:function"
    )
    assert problem("no_such_package.train:run") == (
        f"cannot import 'no_such_package.train': No module named 'no_such_package'; looked for in {os.getcwd()} and among the installed packages"
    )
    Path("src").mkdir()
    Path("src/of_src.py").touch()
    assert problem("of_src:train").endswith("packages; it is in src/: run with PYTHONPATH=src")
    assert problem(f"{name}:trian") == f"module '{name}' has no 'trian'"
    assert problem("__main__:train") == (
        "'__main__:train' is of a notebook or of a script that runs, which workers cannot import; write it to a file, in a notebook by %%writefile training.py"
    )
    needy = module(imports="import no_such_dependency")
    assert (
        problem(f"{needy}:train")
        == f"cannot import '{needy}': No module named 'no_such_dependency'"
    )


def test_what_is_neither_a_function_nor_a_subject_is_an_error(module):
    name = module()
    assert (
        problem(f"{name}:LEARNING_RATE")
        == f"'{name}:LEARNING_RATE' is neither a function nor a subject"
    )


def test_code_that_is_not_python_is_an_error_that_says_where(module):
    name = module(code="def train(config, seed, report):\n    return {\n")
    assert (
        problem(f"{name}:train")
        == f"cannot import '{name}': '{{' was never closed ({name}.py, line 2)"
    )


@pytest.mark.parametrize(
    "options",
    [["-P"], []],
    ids=["as the ablate script", "with -m and -c, where the folder comes first"],
)
def test_own_code_is_found_where_ablate_is_started_and_hides_none_of_ours(tmp_path, options):
    (tmp_path / "my.py").write_text(
        "def train(config, seed, report):\n    return {'accuracy': 1}\n"
    )
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("raise RuntimeError('this is not ours')\n")
    command = Command(f"{sys.executable} my.py {{seed}}").name
    code = f"from ablation.subject.loading import load_subject as load; print([type(load(name)).__name__ for name in ({command!r}, 'my:train', 'core', 'my:train')])"
    done = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    kinds = "['CommandSubject', 'FunctionSubject', 'StrategyA', 'FunctionSubject']"
    assert done.stdout == f"{kinds}\n", done.stderr


TRAIN = "def train(config, seed, report):\n    return {'accuracy': 1}\n"
HIDDEN = {  # subject -> the file that is hidden, and the end of the path of the one that hides it
    "core.train:train": ("core/train.py", "core/__init__.py"),
    "ablation.train:train": ("ablation/train.py", "ablation/__init__.py"),
    "core.subject:SUBJECT": ("core/subject.py", "core/subject.py"),
    "code:train": ("code.py", "code.py"),
    "json.train:train": ("json/train.py", "json/__init__.py"),
    "os:train": ("os.py", "os.py"),
    "time:train": ("time.py", "built-in"),
    "yaml:train": ("yaml/__init__.py", "yaml/__init__.py"),
    "installed:train": ("installed.py", "site-packages/installed.py"),
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package that has a function `train`, and a working directory that is searched after it."""
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "installed.py").write_text(TRAIN)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site-packages")])
    return tmp_path / "project"


@pytest.mark.parametrize("name", HIDDEN)
def test_a_subject_that_another_module_hides_is_refused_with_both_paths(installed, name):
    own, other = HIDDEN[name]
    (installed / own).parent.mkdir(exist_ok=True)
    (installed / own).write_text(TRAIN)
    said = problem(name)
    assert said.startswith(f"{installed / own} is hidden by ") and said.endswith(
        "; rename the first"
    )
    assert said.partition(" is hidden by ")[2].partition(",")[0].endswith(other)


@pytest.mark.parametrize(
    "line",
    ["import installed", "from json.tool2 import f", "def f():\n    from core.things import x"],
)
def test_a_module_that_a_subject_imports_and_another_one_hides_is_refused_too(
    installed, line, module
):
    for own in ("installed.py", "json/tool2.py", "core/things.py"):
        (installed / own).parent.mkdir(exist_ok=True)
        (installed / own).write_text("f = x = 1\n")
    name = module(code=f"{line}\n{TRAIN}")
    assert " is hidden by " in problem(f"{name}:train")


def test_modules_that_are_the_very_ones_that_python_takes_hide_nothing(installed, monkeypatch):
    (installed / "pack").mkdir()
    (installed / "pack" / "mine.py").write_text(
        f"from . import helper_of_mine\nimport installed\n{TRAIN}"
    )
    (installed / "pack" / "helper_of_mine.py").write_text("")
    monkeypatch.syspath_prepend(installed)
    assert isinstance(load_subject("pack.mine:train"), FunctionSubject)
    assert isinstance(load_subject("installed:train"), FunctionSubject)


def test_the_core_of_a_checkout_is_its_own_though_another_is_installed(tmp_path):
    for place in ("checkout", "installed"):
        (tmp_path / place / "core").mkdir(parents=True)
        (tmp_path / place / "core" / "__init__.py").touch()
        subject = "class Place:\n    check = chain = advance = __file__\nSUBJECT = Place()\n"
        (tmp_path / place / "core" / "subject.py").write_text(subject)
    checkout = tmp_path / "checkout"
    shutil.copytree(PACKAGE, checkout / "ablation", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from ablation.subject.loading import load_subject; print(load_subject('core').check)"
    path = os.pathsep.join([str(checkout), str(tmp_path / "installed")])
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert found.strip() == str(checkout / "core" / "subject.py")


# --- the metrics of the built-in subject

REPORTING = {
    "joint": JOINT,
    "no warm-up": JOINT | {"warmup.epochs": 0},
    "warm-up to the end": JOINT | {"warmup.fraction": 1.0},
    "plateau": JOINT | {"warmup.plateau.window": 1, "warmup.plateau.min_epochs": 2},
    "frozen encoder": JOINT | {"end_to_end": False},
    "linear head, diffusion loss alone": JOINT
    | {"head.name": "linear", "losses.prototype": 0, "losses.radius": 0},
    "no generated loss": JOINT | {"losses.generated": 0},
    "no epoch left to generate for": JOINT | {"generation.every": 5},
    "nothing to balance": JOINT | {"data.imbalance_factor": 1},
    "ldmlr's quota of what is balanced": JOINT
    | {"data.imbalance_factor": 1, "generation.quota": "ldmlr"},
    "classes of one image": JOINT | {"data.imbalance_factor": 14},
    "all groups, one test image a class": JOINT
    | {"data.n_max": 110, "data.imbalance_factor": 50, "data.n_test": 1},
    "averaged weights": JOINT | {"optim.ema": 0.9},
    "averaged weights, all groups": JOINT
    | {"optim.ema": 0.9, "data.n_max": 110, "data.imbalance_factor": 50},
    "averaged weights, never thawed": JOINT | {"optim.ema": 0.9, "end_to_end": False},
    "averaged weights, staged": STAGED | {"optim.ema": 0.9},
    "two views": JOINT | {"losses.consistency": 1.0},
    "sharpness-aware": JOINT | {"optim.sam": 0.05},
    "two views, never thawed": JOINT | {"losses.consistency": 1.0, "end_to_end": False},
    "staged": STAGED,
    "staged without generation": STAGED | {"staged.generation": False},
    "staged as the original": ORIGINAL,
    "ce": JOINT | {"method": "ce"},
    "ce on validation": JOINT | {"method": "ce", "data.validation": 0.2},
}
FURTHER = {
    "warm-up to the end", "no generated loss", "no epoch left to generate for", "ldmlr's quota of what is balanced",
    "averaged weights", "averaged weights, never thawed", "averaged weights, staged", "two views, never thawed",
    "staged without generation", "linear head, diffusion loss alone", "averaged weights, all groups",
    "nothing to balance", "no warm-up", "sharpness-aware", "ce on validation",
}  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:std\\(\\):UserWarning"
)  # the spread of one radius, which is left out
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(settings, id=name, marks=pytest.mark.long if name in FURTHER else [])
        for name, settings in REPORTING.items()
    ],
)
def test_the_metrics_that_are_foretold_are_those_of_the_last_epoch(settings):
    store = run(settings)
    assert set(store.record(chain(settings, store=store)[-1].key)["metrics"]) == SUBJECT.metrics(
        settings
    )


def test_metrics_of_held_out_images_are_not_called_those_of_the_test_set():
    settings = JOINT | {"data.validation": 0.2, "optim.ema": 0.9}
    store = run(settings)
    last = store.record(chain(settings, store=store)[-1].key)
    assert "validation/top1" in SUBJECT.metrics(settings) <= last["metrics"].keys()
    assert not [name for name in last["metrics"] if name.startswith("test/")]
    assert "validation/per_class" in last["vectors"]


@pytest.mark.parametrize(("n_max", "has_tail"), [(14, False), (30, True)])
def test_head_and_tail_are_told_apart_where_there_are_two_size_groups(n_max, has_tail):
    settings = JOINT | {"data.n_max": n_max}
    store = run(settings)
    told = store.record(chain(settings, store=store)[-1].key)["metrics"].keys()
    names = {
        f"diag/{name}_{part}" for name in ("radius", "train_radius") for part in ("head", "tail")
    }
    for found in (SUBJECT.metrics(settings), told):
        assert names & found == (names if has_tail else set())
    assert "diag/radius_spread" in told


def test_kinds_of_warmup_are_alternatives():
    assert [set(group) for group in SUBJECT.alternatives()] == [
        {"warmup.epochs", "warmup.fraction", "warmup.plateau"}
    ]


def test_a_pretrained_encoder_with_held_out_images_is_warned_of_and_nothing_else_is():
    pretrained = {"encoder.checkpoint": "pretrained/one.safetensors", "encoder.channels": "gray"}
    held_out = {"data.validation": 0.2}
    for settings in ({}, pretrained, held_out):
        assert "warnings" not in SUBJECT.describe(settings)
    (warning,) = SUBJECT.describe(pretrained | held_out)["warnings"]
    assert "one.safetensors" in warning and "held images out" in warning


# --- a function as a subject


def test_a_function_is_a_chain_of_one_link(module):
    subject = load_subject(f"{module()}:train")
    (link,) = subject.chain({"lr": 0.5}, 3, lambda key: None)
    assert (link.phase, link.epoch) == ("train", 1)
    assert subject.check({"anything": object()}) == []
    assert subject.resolve({"lr": 0.5}) == {"lr": 0.5}
    assert subject.baselines() == {}
    assert subject.metrics({}) is None
    assert subject.describe({})["source_fingerprint"]


def test_its_key_follows_settings_seed_and_source(module):
    subject = load_subject(f"{module()}:train")

    def key(settings, seed=0, subject=subject):
        return subject.chain(settings, seed, lambda key: None)[0].key

    same = key({"lr": 0.5, "epochs": 3})
    assert key({"epochs": 3, "lr": 0.5}) == same  # the order of settings does not count
    elsewhere = load_subject(
        f"{module()}:train"
    )  # the same text in another module may call other helpers
    assert elsewhere.chain({"epochs": 3, "lr": 0.5}, 0, None)[0].key != same
    assert key({"lr": 0.5, "epochs": 4}) != same
    assert key({"lr": 0.5}) != same
    assert key({"lr": 0.5, "epochs": 3}, seed=1) != same
    changed = module(code=MODULE.format(imports="").replace("90 + seed", "91 + seed"))
    assert key({"lr": 0.5, "epochs": 3}, subject=load_subject(f"{changed}:train")) != same


def test_its_key_follows_no_comments_in_its_source(package):
    before = package(main=TRAIN)
    assert package(main=f"# why\n{TRAIN.replace('return', 'return  ')}") == before
    assert package(main=TRAIN.replace("1}", "2}")) != before


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes files of a package of somebody's own onto the import path; returns the key of the trial of its `train`."""
    name = f"own_package_{tmp_path.name.replace('-', '_')}"
    monkeypatch.syspath_prepend(tmp_path)

    def key(**texts):
        for path, text in texts.items():
            file = tmp_path / name / f"{path.replace('__', '/')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
            del sys.modules[loaded]  # as a new process finds it
        importlib.invalidate_caches()
        return load_subject(f"{name}.main:train").chain({}, 0, None)[0].key

    return key


IMPORTS = {
    "a module": ("from {package}.helper import scale", "helper"),
    "a module, relatively": ("from .helper import scale", "helper"),
    "a module, by its package": ("from . import helper", "helper"),
    "a module of a package within": ("from .parts.helper import scale", "parts__helper"),
    "a module that a module imports": ("from .between import scale", "helper"),
    "a module above": ("from .parts.between import scale", "helper"),
}


@pytest.mark.parametrize("line, helper", IMPORTS.values(), ids=IMPORTS)
@pytest.mark.parametrize("where", ["", "    "], ids=["at the top", "in the function"])
def test_its_key_follows_the_modules_of_the_project_that_it_imports(
    package, tmp_path, line, helper, where
):
    line = line.format(package=f"own_package_{tmp_path.name.replace('-', '_')}")
    function = "def train(config, seed, report):\n{}\n    return {{'accuracy': 1}}\n"
    main = function.format(f"    {line}") if where else f"{line}\n" + function.format("    pass")
    others = {
        "between": "from .helper import scale",
        "parts__between": "from ..helper import scale",
        "unused": "scale = 1\n",
    }
    before = package(main=main, helper="scale = 1\n", parts__helper="scale = 1\n", **others)
    assert package(unused="scale = 2\n") == before
    assert package(**{helper: "scale = 2\n"}) != before
    assert package(**{helper: "scale = 1\n"}) == before


def test_its_key_follows_the_versions_of_the_libraries_that_these_import(package, monkeypatch):
    before = package(
        main="from .helper import f\n\n\ndef train(config, seed, report):\n    return {'accuracy': 1}\n",
        helper="def f():\n    import yaml\n",
    )
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: real(name) + ".post1" if name == "optuna" else real(name),
    )
    assert package() == before
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: real(name) + ".post1" if name == "PyYAML" else real(name),
    )
    assert package() != before


def test_its_metrics_are_the_record_and_its_reports_the_history(module):
    _, _, record = ran(load_subject(f"{module()}:train"), {"lr": 0.5, "epochs": 3}, seed=2)
    assert record["metrics"] == {"accuracy": 92.0, "loss": 0.5}
    assert record["history"] == [{"epoch": e, "metrics": {"loss": 0.5 / e + 2}} for e in (1, 2, 3)]
    assert (record["phase"], record["epoch"], record["vectors"]) == ("train", 3, {})
    assert record["seconds"] >= 0 and record["time"] > 0


def test_a_function_that_reports_nothing_has_one_epoch():
    def train(config, seed, report):
        return {"accuracy": 1}

    _, _, record = ran(FunctionSubject(train), {})
    assert (record["epoch"], record["history"], record["metrics"]) == (1, [], {"accuracy": 1.0})


def test_numbers_of_other_libraries_become_plain_ones():
    def train(config, seed, report):
        import numpy as np

        return {"a": np.float32(0.5), "b": np.int64(3), "c": True}

    store, link, record = ran(FunctionSubject(train), {})
    assert record["metrics"] == {"a": 0.5, "b": 3.0, "c": 1.0}
    json.loads(store.load("record", link.key))


def test_reported_numbers_of_other_libraries_become_plain_ones():
    def train(config, seed, report):
        import numpy as np

        report(1, {"loss": np.float32(0.5)})
        return {"accuracy": np.float64(1)}

    _, _, record = ran(FunctionSubject(train), {})
    assert record["history"] == [{"epoch": 1, "metrics": {"loss": 0.5}}]


def test_a_function_cannot_change_the_settings_of_the_study():
    def train(config, seed, report):
        config["lr"] = math.nan
        return {"accuracy": 1}

    settings = {"lr": 0.5}
    ran(FunctionSubject(train), settings)
    assert settings == {"lr": 0.5}


def test_a_finished_function_is_not_run_again():
    calls = []

    def train(config, seed, report):
        calls.append(seed)
        return {"accuracy": 1}

    subject = FunctionSubject(train)
    store, link, _ = ran(subject, {})
    subject.advance({}, 0, link.key, store, lambda *_: pytest.fail("reported"), Place("a", Path()))
    assert calls == [0]


def test_a_function_that_fails_leaves_no_record():
    def train(config, seed, report):
        report(1, {"loss": 1.0})
        raise RuntimeError("out of memory")

    subject, store = FunctionSubject(train), MemoryStore()
    (link,) = subject.chain({}, 0, lambda key: None)
    with pytest.raises(RuntimeError, match="out of memory"):
        subject.advance(
            {}, 0, link.key, store, lambda *_: pytest.fail("reported"), Place("a", Path())
        )
    assert store == {}


@pytest.mark.parametrize(
    "line", ["import ablation", "from ablation import run_study", "import ablation.api"]
)
def test_a_subject_that_imports_the_harness_does_not_change_with_it(tmp_path, monkeypatch, line):
    (tmp_path / "mine_alone.py").write_text(f"{line}\nimport mine_too\n")
    (tmp_path / "mine_too.py").write_text("a = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert set(project_sources("mine_alone")) == {"mine_alone", "mine_too"}
