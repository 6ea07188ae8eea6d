"""`ablate plan` tells what a search costs, `ablate status` how far it is; warnings are printed."""

import io
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner
from fabricate import study
from rich.console import Console
from toy_search import SearchedStudy

from ablation.cli.main import main
from ablation.search.tuning import TEST_IMAGES_SEEN, search_found
from ablation.storage.asked import SearchLog
from ablation.storage.files import folder_lock
from ablation.study import running
from ablation.study.views import describe_plan, describe_status, show_plan


@pytest.fixture
def toy(tmp_path):
    return SearchedStudy(tmp_path)


def shown(toy, known=None, jobs=2) -> str:
    console = Console(file=io.StringIO(), width=150)
    show_plan(console, toy.planned(), known or {}, jobs)
    return console.file.getvalue()


def cells(text: str, name: str) -> list[str]:
    return next(line.split()[1:] for line in text.splitlines() if line.split()[:1] == [name])


def test_the_plan_tells_the_search_and_then_the_study_at_its_most(toy):
    text = shown(toy)
    search, _, after = text.partition("then, at most,")
    assert "search of 2 arms and baselines, 3 trials each, on validation (tpe, pruner" in search
    assert cells(search, "reference") == ["1", "3", "0", "20", "20"]
    # pre-training is counted with the first arm
    assert cells(search, "warmup=cold") == ["1", "3", "0", "20", "18"]
    said = "0 trials of the search have ended, at most 38 epochs are left to train; pruning makes"
    assert said in search
    assert "8 trials:" in after and "50 left to train" in after
    assert cells(after, "reference.untuned")[1:3] == ["2", "16"]


def test_the_forecast_of_a_search_takes_its_trials_one_after_another(toy):
    text = shown(toy, {"pretrain": 10.0, "warmup": 10.0, "joint": 10.0})
    # 38 epochs; of two jobs, one waits for the pre-training, and then both have 18 epochs
    assert "forecast: 3.3 min of training with 2 jobs, 6.3 min with one; at most" in text


def test_a_search_with_a_budget_of_epochs_or_without_a_pruner_says_so(tmp_path):
    toy = SearchedStudy(tmp_path, budget="budget: 30")
    text = shown(toy)
    assert "30 epochs each" in text and "by budget" in text
    path = tmp_path / "grid.yaml"
    path.write_text(path.read_text().replace("pruner: hyperband", "pruner: none"))
    assert "pruning makes it less" not in shown(toy)


def test_a_finished_search_costs_nothing_and_the_plan_is_that_of_the_tuned_study(toy):
    for arm in toy.tuning().arms.values():
        for number in range(3):
            arm.log.append({"ask": number, "values": {"rate": 1 + number}})
            arm.log.append({"end": number, "state": "COMPLETE", "value": float(number)})
    text = shown(toy)
    assert "the search is finished: 6 trials of 2 arms" in text
    assert "at most" not in text


def searched(places, is_done=False):
    folder = places.runs("toy.search")
    search = {"of": "toy", "arms": {"a": {"space": {}, "digest": "d"}}}
    metric = {"name": "validation", "goal": "minimize"}
    made = study(folder.path, factors={}, baselines=["ce"], seeds=[100], study="toy.search")
    made.write_manifest(replace(made.manifest(), search=search, metric=metric))
    log = SearchLog(folder.path, "a", "d")
    for number, (state, value) in enumerate(
        [("COMPLETE", 3.0), ("PRUNED", None), ("COMPLETE", 2.0), ("FAILED", None)]
    ):
        log.append({"ask": number, "values": {}})
        log.append({"end": number, "state": state, "value": value})
    if not is_done:
        log.append({"ask": 4, "values": {}})
    return folder


def status(places, name="toy") -> str:
    console = Console(file=io.StringIO(), width=200)
    describe_status(name, places, console)
    return console.file.getvalue()


def test_the_status_of_a_study_names_the_search_that_is_under_way(toy):
    folder = searched(toy.places)
    with folder_lock(folder.path):
        text = status(toy.places)
    assert "the search is under way; 4 trials have ended; 1 are open" in text
    assert cells(text, "a") == ["4", "1", "1", "1", "2.00"]
    assert "study toy begins once its search is finished" in text
    assert "the search was interrupted" in status(toy.places)


def test_the_status_of_a_study_after_its_search_tells_both(toy, monkeypatch):
    searched(toy.places, is_done=True)
    toy.run(monkeypatch)
    monkeypatch.chdir(toy.root)
    folder = study(toy.places.runs("toy").path, factors={}, baselines=["ce"], study="toy")
    assert folder.exists()
    text = status(toy.places)
    assert "the search is not under way; 4 trials have ended" in text
    assert "3/3 trials done" not in text.partition("study toy")[0]
    assert re.search(r"\d+/\d+ trials done", text)


def test_a_report_of_a_search_is_refused_and_its_study_named(toy, monkeypatch):
    searched(toy.places)
    monkeypatch.chdir(toy.root)
    done = CliRunner().invoke(main, ["report", "toy.search"])
    assert done.exit_code == 2 and "`ablate report toy`" in done.output
    assert not (toy.root / "reports").exists()


def test_a_study_is_found_by_its_search_alone_and_needs_no_name_beside_it(toy, monkeypatch):
    searched(toy.places)
    monkeypatch.chdir(toy.root)
    for arguments in (["status"], ["status", "toy"], ["status", "toy.search"]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0 and "search of study toy" in done.output
    study(toy.places.runs("toy").path, factors={}, baselines=["ce"], study="toy")
    done = CliRunner().invoke(main, ["report"])
    assert done.exit_code == 0 and "reports/toy/report.md" in done.output


def test_what_the_subject_warns_of_is_printed_with_the_plan(toy, capsys):
    describe_plan(toy.planned(), 1)
    assert "warning" not in capsys.readouterr().out
    toy.subject.warnings = ("the encoder has seen the images",)
    describe_plan(toy.planned(), 1)
    assert capsys.readouterr().out.count("warning: the encoder has seen the images") == 1


def test_a_search_on_other_seeds_test_images_is_warned_of(toy, capsys):
    toy.subject.drawn_per_seed = ("training", "validation")
    assert toy.planned().warnings == []
    toy.subject.drawn_per_seed = ("training", "test")
    assert toy.planned().warnings == toy.planned().tuning.warnings == [TEST_IMAGES_SEEN]
    describe_plan(toy.planned(), 1)
    assert " ".join(capsys.readouterr().out.split()).count(f"warning: {TEST_IMAGES_SEEN}") == 1
    found = search_found(toy.planned().tuning, {})  # what the report reads
    assert found["warnings"] == [TEST_IMAGES_SEEN]


def test_and_before_a_run(toy, monkeypatch):
    said = []
    toy.subject.warnings = ("the encoder has seen the images",)
    monkeypatch.setattr(running, "tell", lambda console, text, **_: said.append(text))
    monkeypatch.chdir(toy.root)
    with running._held(toy.planned(), running.RunOptions(jobs=1, offline=True), set()):
        pass
    assert "warning: the encoder has seen the images" in said
