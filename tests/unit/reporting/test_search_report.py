"""The report of a tuned study tells what the search took, found and gained, on which set."""

import re
from dataclasses import replace

import pandas as pd
import pytest
from fabricate import FACTORS, study
from fabricate_search import tuned_study
from test_figures import texts
from test_report import rows_of, text_of

from ablation.analysis.claims import judge_claims
from ablation.analysis.effects import judge
from ablation.analysis.results import load
from ablation.analysis.tuning import beside_untuned
from ablation.formatting import effect
from ablation.reporting import figures
from ablation.reporting.report import render, write_report
from ablation.reporting.search import OWN_BEST, search_table, untuned_claims
from ablation.reporting.search_figure import MAX_ARMS, search_figure
from ablation.reporting.tables import study_tables
from ablation.reporting.verdict import verdict

ONE = {"lr_split": FACTORS["lr_split"]}
SMALL = {"factors": ONE, "baselines": ["ce", "ldmlr"], "seeds": [0, 1, 2, 3]}
RISES = {
    "id": "rises",
    "says": "It rises.",
    "contrast": {"factor": "lr_split", "from": "off", "to": "on"},
    "expects": [{"metric": "test/top1", "direction": "up"}],
}


def tuned(path, gains=None, **options):
    gains = {"lr_split": 4.0, "ldmlr": -3.0} if gains is None else gains
    return tuned_study(path, gains, not_searched=("ce",), **{**SMALL, **options})


def section_of(text: str) -> str:
    return re.search(r"^## Search$(.*?)(?=^## )", text, re.M | re.S)[1]


def searched(text: str) -> dict[str, list[str]]:
    """The table of what was found, by arm."""
    return rows_of(text.partition("Importance of each setting")[0], "Search")


def test_how_it_was_searched_is_told_in_words(tmp_path):
    text = section_of(text_of(tuned(tmp_path)))
    for words in [
        "(3; not `ce`",
        "12 trials each",
        "Optuna's TPE sampler, the arm's own settings first, and ended early by ",
        "hyperband, first after 3 epochs",
        "highest top-1 on validation",
        "under seed 100, which is none of the study's",
        "with `data.validation: 0.2`",
        "The test set was not looked at in it.",
    ]:
        assert words in text
    other = {"sampler": "grid", "pruner": "none", "trials": 0, "budget": 400, "seeds": [100, 101]}
    text = section_of(text_of(tuned(tmp_path / "b", search=other)))
    assert "400 epochs each, asked of a grid in random order. The best" in text
    assert "averaged over seeds, under seeds 100, 101, which are none" in text


def test_own_settings_are_said_to_be_tried_first_only_where_they_were(tmp_path):
    folder = tuned(tmp_path)
    manifest = folder.manifest()
    manifest.search["arms"]["ldmlr"]["own"] = None
    folder.write_manifest(manifest)
    text = section_of(text_of(folder))
    assert "own settings first (but for `ldmlr`, whose own lie outside the space), and" in text
    for found in manifest.search["arms"].values():
        found["own"] = None
    folder.write_manifest(manifest)
    text = section_of(text_of(folder))
    assert "settings first" not in text
    assert "TPE sampler, which began elsewhere than at the arms' own settings, as these lie" in text


def test_the_test_set_is_spoken_of_only_where_it_is_known(tmp_path):
    section = section_of(text_of(tuned(tmp_path / "a", subject="mine:train")))
    assert "test set" not in section and "on validation and" not in section
    assert "the difference in top-1 over the study's seeds is not. It" in section
    assert "Tuning gained in the search and not in the study" in section
    same = {"metric": {"name": "test/top1", "goal": "maximize"}}
    section = section_of(text_of(tuned(tmp_path / "b", search=same)))
    assert "was not looked at" not in section and "on the test set is not. It" in section


def test_each_arm_has_a_row_with_what_its_search_took_found_and_gained(tmp_path):
    folder = tuned(tmp_path)
    rows = searched(text_of(folder))
    assert list(rows)[2:] == ["reference", "lr_split", "ldmlr"]
    found = load(folder).manifest.search["arms"]["lr_split"]
    counts = found["counts"]
    trials, epochs, best, validation, test, difference = rows["lr_split"]
    assert trials == f"{counts['COMPLETE']} / {counts['PRUNED']} / {counts['FAILED']}"
    assert sum(map(int, trials.split(" / "))) == 12 and min(counts.values()) > 0
    assert epochs == str(found["epochs"])
    assert best == "`optim.lr.encoder: 0.0057`, `losses.semantic: 0.05`, `head.name: linear`"
    assert validation == "67.0 -> 75.5"
    trials = load(folder).trials
    means = trials[trials["state"] == "COMPLETE"].groupby("arm")["test/top1"].mean()
    shown = [float(number) for number in test.split(" -> ")]
    assert shown == pytest.approx([means["lr_split.untuned"], means["lr_split"]], abs=0.6)
    assert difference.startswith("**+") and difference.endswith("]**")
    assert rows["reference"][-1] == OWN_BEST and "->" not in rows["reference"][4]


def test_a_gain_on_validation_alone_is_warned_of(tmp_path):
    text = section_of(text_of(tuned(tmp_path)))
    (warning,) = re.findall(r"^\*\*Warning\.\*\* (.*)$", text, re.M)
    assert "`ldmlr` (top-1 on validation +8.5 points, top-1 -" in warning
    assert "`lr_split`" not in warning and "`reference`" not in warning
    assert "**Warning" not in section_of(text_of(tuned(tmp_path / "b", {"lr_split": 9.0})))


def test_importances_stand_with_how_few_trials_they_are_of(tmp_path):
    text = section_of(text_of(tuned(tmp_path)))
    assert re.search(r"\| `lr_split` +\| +33 % \| +55 % \| +12 % \|", text)
    assert "Few trials tell little" in text
    assert "Few trials" not in section_of(text_of(tuned(tmp_path / "b", n_trials=60)))


def test_an_arm_of_which_no_trial_was_completed_is_told(tmp_path):
    folder = tuned(tmp_path)
    manifest = folder.manifest()
    manifest.search["arms"]["reference"] |= {
        "best": None,
        "value": None,
        "number": None,
        "importances": {},
        "own_value": None,
        "counts": {"COMPLETE": 0, "PRUNED": 2, "FAILED": 10},
    }
    folder.write_manifest(manifest)
    text = section_of(text_of(folder))
    assert "No trial of `reference` was completed" in text
    assert searched(text_of(folder))["reference"][2] == "no trial was completed"
    drawn = texts(search_figure(load(folder)))
    assert "reference" not in drawn and "lr_split" in drawn


def test_accuracies_have_a_column_without_tuning_in_tuned_studies_alone(tmp_path):
    rows = rows_of(text_of(tuned(tmp_path)), "Accuracy")
    assert rows["arm"][3] == "untuned"
    assert rows["reference"][3] == "the same" and rows["ce"][3] == "–"
    trials = load(tuned(tmp_path / "b")).trials
    mean = trials[trials["arm"] == "lr_split.untuned"]["test/top1"].mean()
    assert float(rows["lr_split"][3]) == pytest.approx(mean, abs=0.6)
    assert "lr_split.untuned" not in rows
    text = text_of(study(tmp_path / "c", **SMALL))
    assert "untuned" not in text.lower() and "## Search" not in text


def test_claims_stand_with_what_they_are_without_tuning(tmp_path):
    folder = tuned(tmp_path / "runs", {"lr_split": 12.0}, claims=[RISES])
    write_report(folder, tmp_path / "report")
    written = pd.read_csv(tmp_path / "report" / "claims.csv")
    row = written.iloc[0]
    text = (tmp_path / "report" / "report.md").read_text()
    size = effect(row["untuned_estimate"], row["untuned_low_holm"], row["untuned_high_holm"])
    assert f"- Without tuning: **refuted**; top-1 {size} points (interval and p " in text
    assert text.index("**Supported:** It rises.") < text.index("- Without tuning")
    assert (tmp_path / "report" / "figures" / "search.png").is_file()
    assert "](figures/search.png)" in text


@pytest.mark.parametrize(
    "options, says",
    [
        ({"seeds": [0]}, "points (one seed: no interval over seeds)"),
        ({"seeds": [0, 1, 2], "looks": [3, 5]}, "] points (repeated interval and p "),
        ({"seeds": [0, 1], "looks": [3, 5], "noise": 1e-9}, "points (repeated p < 0.001 after "),
    ],
)
def test_what_is_said_without_tuning_says_of_which_kind_its_numbers_are(tmp_path, options, says):
    folder = tuned(tmp_path, {"lr_split": 12.0}, claims=[RISES], without_noise=True, **options)
    results = load(folder)
    claims = beside_untuned(judge_claims(results, judge(results)), results)
    assert says in untuned_claims(claims)["rises"]


@pytest.mark.parametrize(
    "n_untuned, told",
    [(8, "**not decided**; top-1 "), (3, "not decided after 3 seeds (tuned: 8); top-1 ")],
)
def test_a_verdict_of_fewer_seeds_is_not_shown_as_another_one(tmp_path, n_untuned, told):
    """Seeds are added to tuned arms alone, so that what is found with them may be missed without."""
    folder = tuned(tmp_path, {"lr_split": 12.0}, claims=[RISES], seeds=range(8))
    manifest = folder.manifest()
    for spec in manifest.trials:
        if spec.kind == "untuned":
            # a gain that no number of seeds finds
            top1 = 60.0 + spec.seed % 2 * (-1) ** (spec.arm != "reference.untuned")
            folder.write_outcome(
                spec.trial, replace(folder.outcome(spec.trial), metrics={"test/top1": top1})
            )
    kept = [spec for spec in manifest.trials if spec.kind != "untuned" or spec.seed < n_untuned]
    folder.write_manifest(replace(manifest, trials=kept))
    results = load(folder)
    claims = beside_untuned(judge_claims(results, judge(results)), results)
    assert untuned_claims(claims)["rises"].startswith(told)


def test_claims_of_other_studies_have_no_more_columns_than_before(tmp_path):
    folder = study(tmp_path / "runs", claims=[RISES], seeds=[0, 1], factors=ONE, baselines=[])
    write_report(folder, tmp_path / "report")
    columns = list(pd.read_csv(tmp_path / "report" / "claims.csv").columns)
    assert not [name for name in columns if "untuned" in name]
    assert not (tmp_path / "report" / "figures" / "search.png").exists()


def test_no_untuned_arm_is_ranked_counted_or_called_the_best(tmp_path):
    # untuned, each is far above all that was tuned
    folder = tuned(tmp_path, {"reference": -30.0, "lr_split": -31.0, "ldmlr": -30.0})
    results = load(folder)
    effects = judge(results)
    claims = beside_untuned(judge_claims(results, effects), results)
    said = " ".join(verdict(results, effects, claims).lines)
    assert "The best arm is `lr_split`" in said and "untuned" not in said
    assert "both arms" in said or "of two arms" in said
    text = render(results, effects, claims, [])
    for section in ("Accuracy", "Effects"):
        assert not [name for name in rows_of(text, section) if name.endswith(".untuned")]


def test_an_untuned_arm_that_diverged_is_no_part_of_the_answer(tmp_path):
    folder = tuned(tmp_path)
    outcome = folder.outcome("lr_split.untuned--s0")
    error = {"type": "Diverged", "message": "the loss is NaN", "traceback": ""}
    folder.write_outcome(
        "lr_split.untuned--s0", type(outcome)("FAILED", {}, 1.0, error, key=outcome.key)
    )
    text = text_of(folder)
    assert "diverged in" not in text.partition("**Answer.**")[2].partition("## Accuracy")[0]
    assert "lr_split.untuned--s0" in rows_of(text, "Failed trials")


def test_tables_for_a_readme_have_the_arms_of_the_design(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda *arguments: [])
    write_report(tuned(tmp_path / "runs"), tmp_path / "reports" / "fixes")
    table = study_tables([tmp_path / "reports"], "fixes")
    assert "`lr_split`" in table and "untuned" not in table


def test_what_was_found_for_a_baseline_is_no_setting_of_its_own(tmp_path):
    folder = tuned(tmp_path, config={"head": {"name": "wcdas"}, "epochs": 20})
    manifest = folder.manifest()
    for spec in manifest.trials:
        spec.settings.update({"head.name": "linear", "epochs": 5} if spec.arm == "ldmlr" else {})
    folder.write_manifest(manifest)
    text = text_of(folder)
    assert re.search(r"\| `ldmlr` +\| `epochs: 5` +\|", text)


def test_warnings_stand_below_the_answer_and_not_among_the_facts(tmp_path):
    said = "The encoder has seen the images"
    plain = study(tmp_path / "a", facts={"warnings": [said]}, **SMALL)
    of_search = tuned(tmp_path / "b", search={"warnings": [said]})
    for folder in (plain, of_search):
        text = text_of(folder)
        assert text.count(said) == 1 and f"**Warning.** {said}." in text
        assert text.index(said) < text.index("## Accuracy")


def test_the_figure_has_a_panel_per_arm_up_to_its_most(tmp_path):
    many = {"rate": {f"r{n}": {"rate": n} for n in range(MAX_ARMS + 4)}}
    results = load(tuned(tmp_path, {}, factors=many, seeds=[0]))
    figure = search_figure(results)
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert len(titles) == MAX_ARMS and len(set(titles)) == MAX_ARMS


def test_trials_stand_in_the_figure_by_their_number_and_what_ended_early_is_marked(tmp_path):
    results = load(tuned(tmp_path))
    figure = search_figure(results)
    panel = next(axes for axes in figure.axes if axes.get_title() == "lr_split")
    found = results.manifest.search["arms"]["lr_split"]
    by_marker = {line.get_marker(): line for line in panel.lines if len(line.get_xdata()) > 0}
    complete = [(n, last) for n, state, _, last in found["trials"] if state == "COMPLETE"]
    pruned = [(n, last) for n, state, _, last in found["trials"] if state == "PRUNED"]
    assert list(zip(*by_marker["o"].get_data())) == complete
    assert list(zip(*by_marker["x"].get_data())) == pruned
    step = next(line for line in panel.lines if line.get_drawstyle() == "steps-post")
    assert list(step.get_ydata())[:2] == [67.0, 75.5] and max(step.get_ydata()) == 75.5
    assert "own settings" in texts(figure)


def test_a_trial_that_broke_down_does_not_hide_the_others(tmp_path):
    folder = tuned(tmp_path, search={"metric": {"name": "loss", "goal": "minimize"}})
    manifest = folder.manifest()
    manifest.search["arms"]["lr_split"]["trials"][4] = [4, "COMPLETE", 1e9, 1e9]
    folder.write_manifest(manifest)
    figure = search_figure(load(folder))
    assert max(axes.get_ylim()[1] for axes in figure.axes) < 300
    assert "beyond the axis" in texts(figure)


def test_numbers_of_metrics_that_are_no_percentages_have_three_digits(tmp_path):
    loss = {"metric": {"name": "validation/loss", "goal": "minimize"}}
    folder = tuned(tmp_path, search=loss)
    manifest = folder.manifest()
    manifest.search["arms"]["lr_split"] |= {"value": 0.123456, "own_value": 0.5}
    folder.write_manifest(manifest)
    assert "0.5 -> 0.123 " in search_table(load(folder))
