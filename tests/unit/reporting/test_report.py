"""The report says what results.csv says, no more, and says what is missing."""

import re
from dataclasses import replace

import pandas as pd
import pytest
from fabricate import FACTORS, study

from ablation.analysis.claims import judge_claims
from ablation.analysis.effects import judge
from ablation.analysis.results import load
from ablation.analysis.statistics import paired_difference
from ablation.formatting import decimals, effect, over_seeds, table, value
from ablation.reporting.report import render, write_report
from ablation.storage.files import folder_lock
from ablation.subject.command import Command

STATES = {"warmup--s1": "FAILED", "balanced-head--s2": "WAITING", "ce--s2": "RUNNING"}
SHORTEST = {"lr_split": FACTORS["lr_split"]}


DRAWN = ["accuracy", "effects", "learning_curves", "per_class", "mechanism"]


def text_of(folder, drawn=()) -> str:
    """The report, as of a study that is being run, without its figures, which take seconds."""
    with folder_lock(folder.path):
        results = load(folder)
    effects = judge(results)
    return render(results, effects, judge_claims(results, effects), list(drawn))


def rows_of(text: str, section: str) -> dict[str, list[str]]:
    """First column -> the other cells, of the first table of a section."""
    lines = re.search(rf"^## {section}$(.*?)(?=^## |\Z)", text, re.M | re.S)[1].split("\n")
    cells = [
        [cell.strip() for cell in line[1:-1].split("|")] for line in lines if line.startswith("|")
    ]
    return {row[0].strip("`"): row[1:] for row in cells}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    folder = study(
        path / "runs",
        factors=SHORTEST,
        detail=True,
        state=lambda s: STATES.get(s.trial, "COMPLETE"),
    )
    with folder_lock(folder.path):  # as the process that runs it does
        return write_report(folder, path / "reports").path


def test_the_table_is_what_results_csv_says(written):
    results = pd.read_csv(written.parent / "results.csv")
    finished = results[results["state"] == "COMPLETE"]
    shown = rows_of(written.read_text(), "Accuracy")
    reference = finished[finished["arm"] == "ldmlr"].set_index("seed")["test/top1"]
    assert set(results["arm"]) < set(shown)
    for arm, rows in finished.groupby("arm"):
        top1 = rows.set_index("seed")["test/top1"]
        seeds, accuracy, difference = shown[arm][1:4]
        assert seeds == f"{len(top1)}/3"
        mean, sd = accuracy.split(" ± ")
        places = len(mean.partition(".")[2])
        assert float(mean) == pytest.approx(top1.mean(), abs=0.51 * 10**-places)
        assert float(sd) == pytest.approx(top1.std(), abs=0.51 * 10**-places)
        if arm != "ldmlr":
            expected = paired_difference(top1, reference.reindex(top1.index))
            numbers = [float(number) for number in re.findall(r"[-+]?[\d.]+", difference)]
            assert numbers == pytest.approx(
                [*expected[:3]], abs=0.51 * 10 ** -decimals(expected.high - expected.mean)
            )
            assert difference.startswith("**") == (expected.low > 0 or expected.high < 0)


def test_everything_that_the_report_names_stands_beside_it(written):
    text = written.read_text()
    linked = re.findall(r"\]\(([^)]+)\)", text)
    assert len([name for name in linked if name.startswith("figures/")]) == len(DRAWN)
    assert {"results.csv", "effects.csv", "history.csv"} <= set(linked)
    for name in linked:
        assert (written.parent / name).stat().st_size > 0
    for name in DRAWN:
        assert (written.parent / "figures" / f"{name}.svg").is_file()


def test_effects_csv_has_the_columns_of_the_contract(written):
    columns = pd.read_csv(written.parent / "effects.csv").columns
    assert ",".join(columns) == "effect,metric,estimate,low,high,p,p_holm,n_seeds,verdict,warning"


def test_the_same_folder_gives_the_same_bytes_and_stale_figures_go(written, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "learning_curves.png").write_bytes(b"of an earlier state of the study")
    for name in ["a", "b"]:
        folder = study(tmp_path / f"runs-{name}", factors=SHORTEST)
        write_report(folder, tmp_path if name == "a" else tmp_path / "again")
    files = sorted(
        path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*")
    )
    assert len(files) == 4 + 2 * 3  # without histories neither learning curves nor mechanism
    for file in files:
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    assert not (tmp_path / "figures" / "learning_curves.png").exists()


def test_unfinished_trials_are_named(written):
    text = written.read_text()
    assert "- `balanced-head--s2`: waiting" in text and "- `ce--s2`: running" in text


def test_a_failed_trial_appears_with_its_reason(tmp_path):
    text = text_of(study(tmp_path, state=lambda spec: STATES.get(spec.trial, "COMPLETE")))
    assert rows_of(text, "Failed trials")["warmup--s1"] == [
        "ValueError: the loss is NaN at epoch 3"
    ]
    assert "33 of 36 trials finished (33 complete, 1 failed, 1 running, 1 waiting)" in text
    assert rows_of(text, "Accuracy")["warmup"][1] == "2/3"


def test_trials_that_were_split_for_memory_are_named_among_the_limits(tmp_path):
    folder = study(tmp_path, factors=SHORTEST)
    assert "Too little memory" not in text_of(folder)
    records = folder.records("lr_split--s1")
    folder.write_records(
        "lr_split--s1",
        [record | {"accumulation": 2 * n} for n, record in enumerate(records, start=1)],
    )
    assert (
        f"`lr_split--s1` (joint, {2 * len(records)} chunks) passed each batch"
        in text_of(folder).partition("## Limits")[2]
    )


def diverge(folder, *trials):
    """Let failed trials have failed since their training diverged."""
    for trial in trials:
        error = {"type": "Diverged", "message": "the loss is NaN at epoch 3", "traceback": ""}
        folder.write_outcome(trial, replace(folder.outcome(trial), error=error))


def test_diverged_trials_are_counted_per_arm_as_a_result(tmp_path):
    failed = ["warmup--s0", "warmup--s1", "lr_split--s2", "ce--s1"]
    folder = study(tmp_path, state=lambda spec: "FAILED" if spec.trial in failed else "COMPLETE")
    diverge(folder, "warmup--s0", "warmup--s1", "ce--s1")
    text = text_of(folder)
    accuracy = rows_of(text, "Accuracy")
    assert [accuracy[arm][1] for arm in ("warmup", "lr_split", "ce", "reference")] == [
        "1/3, 2 diverged",
        "2/3",
        "2/3, 1 diverged",
        "3/3",
    ]
    counts = re.search(r"## Failed trials\n\n(.*?)\n\n", text, re.S)[1].split("\n")
    assert [re.findall(r"[\w_]+", line) for line in counts[2:]] == [
        ["warmup", "2", "0"],
        ["lr_split", "0", "1"],
        ["ce", "1", "0"],
    ]
    assert (
        "Training diverged in 2 of 3 trials of `warmup` and 1 of 3 trials of `ce`, and means are of the trials that did not."
        in text
    )
    assert (
        "the trials that did not diverge, and flatters it" in text
        and "Diverged: training broke down" in text
    )


def test_an_arm_of_which_all_trials_diverged_has_no_mean(tmp_path):
    failed = [f"warmup--s{seed}" for seed in range(3)]
    folder = study(tmp_path, state=lambda spec: "FAILED" if spec.trial in failed else "COMPLETE")
    diverge(folder, *failed)
    told = "Training diverged in 3 of 3 trials of `warmup`, and it has no mean."
    assert told in text_of(folder)


def test_without_divergence_there_is_no_word_of_it(tmp_path):
    text = text_of(study(tmp_path, state=lambda spec: STATES.get(spec.trial, "COMPLETE")))
    assert "iverge" not in text and "## Failed trials" in text


def test_the_correlation_of_pairs_is_told(tmp_path):
    folder = study(tmp_path, seeds=range(4), factors=SHORTEST)
    cells = load(folder).cells("test/top1")
    known = [cells[arm].corr(cells["ldmlr"]) for arm in cells if arm != "ldmlr"]
    assert (
        f"Correlation over seeds with `ldmlr`: {min(known):.2f} to {max(known):.2f} (median {pd.Series(known).median():.2f})."
        in text_of(folder)
    )
    assert "Correlation over seeds" not in text_of(
        study(tmp_path / "two", seeds=[0, 1], factors=SHORTEST)
    )


def test_arms_that_finished_once_are_said_to_be_left_out_of_means(tmp_path):
    states = {"lr_split+warmup--s1": "FAILED", "lr_split+warmup--s2": "FAILED"}
    text = text_of(study(tmp_path, state=lambda spec: states.get(spec.trial, "COMPLETE")))
    assert "Arms without two finished trials are left out of the means: `lr_split+warmup`." in text
    assert "left out of the means" not in text_of(study(tmp_path / "whole"))


@pytest.mark.parametrize("noise", [0.3, 4.0])
def test_nothing_is_bold_whose_interval_contains_0(tmp_path, noise):
    text = text_of(
        study(tmp_path, noise=noise, top1=lambda levels: 66.0 + 3 * (levels["warmup"] == "on"))
    )
    shown = re.findall(r"(\*\*)?([-+][\d.]+)(?: points)? \[([-\d.]+), ([-\d.]+)\]", text)
    assert len(shown) > 10
    for bold, _, low, high in shown:
        assert not (bold and float(low) <= 0 <= float(high))


def test_one_seed_claims_no_interval(tmp_path):
    text = text_of(study(tmp_path, seeds=[0]))
    assert not re.search(r"\d \[", text) and "±" not in text.replace("mean ± std", "")
    assert "One seed cannot tell an effect of `lr_split`, `warmup` and" in text
    assert rows_of(text, "Accuracy")["lr_split"][3].endswith("(one seed)")


def test_no_best_arm_is_named_that_is_not_separable(tmp_path):
    unclear = text_of(study(tmp_path / "unclear", noise=4.0))
    assert "No arm can be called the best" in unclear and "The best arm is" not in unclear
    clear = text_of(study(tmp_path / "clear", factors=SHORTEST, noise=0.1, seeds=range(5)))
    assert "The best arm is `lr_split`" in clear


def test_where_averages_describe_no_arm_effects_are_told_level_by_level(tmp_path):
    def top1(levels):
        return 90.0 - 70 * (levels["gradient_decoupling"] == "on" and levels["lr_split"] == "off")

    text = text_of(study(tmp_path, top1=top1, seeds=range(4), noise=0.3))
    assert re.search(
        r"\| `gradient_decoupling: off -> on at lr_split=off`\s+\|\s+\*\*-(69|70)", text
    )


def test_effects_that_add_up_are_not_told_level_by_level(tmp_path):
    assert "level by level" not in text_of(study(tmp_path, seeds=range(4), noise=0.3))


def test_the_answer_gives_planted_effects(tmp_path):
    folder = study(
        tmp_path,
        factors=SHORTEST,
        seeds=range(4),
        top1=lambda v: 60.0 - 8 * (v["lr_split"] == "on"),
    )
    text = text_of(folder)
    assert re.search(r"^\*\*Answer\.\*\* `lr_split` lowers top-1, and ", text, re.M)
    size = re.search(r"^- `lr_split`: (-[\d.]+) points \[(-[\d.]+), (-[\d.]+)\]\.$", text, re.M)
    mean, low, high = map(float, size.groups())
    assert low < -8 < high and low < mean < high


@pytest.mark.parametrize(
    "what, says",
    [
        ({"state": lambda spec: "WAITING"}, "No trial has finished (36 waiting)"),
        ({"state": lambda spec: "FAILED"}, "No trial has finished (36 failed)"),
        ({"baselines": []}, "none was declared"),
        (
            {"state": lambda s: "WAITING" if s.arm == "ldmlr" else "COMPLETE"},
            "`ldmlr` has no finished trial",
        ),
        ({"factors": SHORTEST}, "`lr_split` raises top-1"),
        ({"factors": {}}, "**Answer.** `reference` is worse than `ldmlr`."),
        (
            {"state": lambda s: "FAILED" if s.arm == "warmup" else "COMPLETE"},
            "left out of the means: `warmup`.",
        ),
        ({"published": [], "facts": {}, "question": ""}, "## Provenance"),
    ],
)
def test_partial_studies_say_what_they_lack(tmp_path, what, says):
    text = text_of(study(tmp_path, **what))
    assert says in text
    assert "nan" not in text.replace("NaN", "").lower().replace("provenance", "")
    assert "\n\n\n" not in text


RISES = {
    "id": "rises",
    "says": "It rises.",
    "contrast": {"factor": "lr_split", "from": "off", "to": "on"},
    "expects": [{"metric": "test/top1", "direction": "up"}],
}


def unfinished(path, waiting, **options):
    """A study of a claim on `lr_split`, of which these trials wait; its effects.csv and claims.csv."""
    folder = study(
        path / "runs",
        factors={"lr_split": FACTORS["lr_split"]},
        baselines=["ldmlr"],
        claims=[RISES],
        state=lambda spec: "WAITING" if waiting(spec) else "COMPLETE",
        **options,
    )
    write_report(folder, path / "report", drawn=[])
    tables = [pd.read_csv(path / "report" / f"{name}.csv") for name in ("effects", "claims")]
    return (path / "report" / "report.md").read_text(), *tables


def test_verdicts_of_an_unfinished_study_are_warned_of_and_its_claims_post_hoc(tmp_path):
    """An interrupted run of five seeds is no study of two."""
    text, effects, claims = unfinished(tmp_path, lambda spec: spec.seed > 1, seeds=range(5))
    said = "6 of 15 planned trials have ended, so that verdicts on all claims are post hoc: "
    assert f"Warning: {said}p-values and verdicts hold once all have." in text
    assert effects["warning"].str.startswith(said).all() and list(claims["post_hoc"]) == ["yes"]
    assert re.search(r"\*\*\w[^*]*, post hoc:\*\* It rises", text)


def test_trials_that_no_claim_compares_leave_claims_as_they_are(tmp_path):
    _, effects, claims = unfinished(
        tmp_path, lambda spec: spec.trial == "ldmlr--s4", seeds=range(5)
    )
    said = "14 of 15 planned trials have ended: p-values and verdicts hold once all have"
    assert set(effects["warning"]) == {said} and "post_hoc" not in claims


def test_effects_between_looks_are_warned_of_and_claims_are_those_of_a_look(tmp_path):
    options = {"seeds": range(5), "looks": [3, 5]}
    _, effects, claims = unfinished(tmp_path, lambda spec: spec.trial == "ldmlr--s4", **options)
    said = "14 of 15 planned trials have ended: p-values and verdicts on effects hold once all have"
    assert set(effects["warning"]) == {said} and "post_hoc" not in claims


@pytest.mark.parametrize(
    "waiting, options",
    [(lambda spec: False, {}), (lambda spec: spec.arm == "ldmlr", {"seeds": [0]})],
)
def test_nothing_is_warned_of_where_all_trials_have_ended_or_nothing_is_tested(
    tmp_path, waiting, options
):
    text, effects, claims = unfinished(tmp_path, waiting, **options)
    assert "warning" not in effects and "post_hoc" not in claims and "Warning" not in text


def test_what_sets_a_baseline_apart_is_told(tmp_path):
    assert "settings other than the experiment's" not in text_of(
        study(tmp_path / "unknown", factors=SHORTEST)
    )
    folder = study(
        tmp_path / "known",
        factors=SHORTEST,
        config={"method": "joint", "head": {"name": "wcdas"}, "epochs": 5},
    )
    manifest = folder.manifest()
    trials = [
        replace(t, settings={"epochs": 5, "method": "staged", "head.name": "linear"})
        if t.arm == "ldmlr"
        else t
        for t in manifest.trials
    ]
    folder.write_manifest(replace(manifest, trials=trials))
    assert re.search(r"\| `ldmlr` +\| `method: staged`, `head.name: linear` +\|", text_of(folder))


def test_settings_that_an_arm_beside_the_design_shares_with_the_experiment_alone_are_told(tmp_path):
    """It is compared with the first arm, which has others."""
    folder = study(
        tmp_path, factors=SHORTEST, baselines=[], config={"routing": "none", "epochs": 5}
    )
    manifest = folder.manifest()
    trials = [replace(spec, settings={"routing": "summed"}) for spec in manifest.trials]
    own = {"routing": "none", "warmup": 2, "epochs": 5}
    beside = replace(trials[0], trial="all--s0", arm="all", levels={}, settings=own)
    for spec in trials:
        spec.settings["epochs"] = 5
    folder.write_manifest(replace(manifest, trials=[*trials, beside]))
    assert re.search(
        r"\| arm +\| settings other than the experiment's or those of `reference` \|\n.*\n"
        r"\| `all` \| `routing: none`, `warmup: 2` +\|\n",
        text_of(folder),
    )


@pytest.mark.parametrize("config", [{}, {"model": {"dropout": 0.1}}])
def test_what_sets_an_arm_beside_the_design_apart_is_told(tmp_path, config):
    folder = study(tmp_path, factors=SHORTEST, baselines=[], config=config)
    manifest = folder.manifest()
    reference = manifest.trials[0]
    beside = replace(
        reference, trial="plain--s0", arm="plain", levels={}, settings={"model.dropout": None}
    )
    folder.write_manifest(replace(manifest, trials=[*manifest.trials, beside]))
    text = text_of(folder)
    assert re.search(r"\| `plain` +\| `model.dropout: None` +\|", text)
    # the settings of the design's arms stand in the table of factors
    assert not re.search(r"^\| `reference` +\| (`|defaults)", text, re.M)


def test_claims_tell_which_seeds_have_no_finite_number(tmp_path):
    claim = {
        "id": "lr",
        "says": "A small rate is better.",
        "contrast": {"factor": "lr_split", "from": "off", "to": "on"},
        "expects": [{"metric": "FID", "direction": "down"}],
    }
    folder = study(tmp_path, factors=SHORTEST, seeds=range(4), claims=[claim])

    def text_with(fid):
        for i, spec in enumerate(folder.manifest().trials):
            outcome = folder.outcome(spec.trial)
            found = fid(spec, 10.0 + i % 3)
            folder.write_outcome(
                spec.trial, replace(outcome, metrics={**outcome.metrics, "FID": found})
            )
        return text_of(folder)

    told = "Complete trials without a finite number"
    assert told not in text_with(lambda spec, fid: fid)
    # the baseline does not measure it at all
    lacking = {"lr_split--s1": float("nan"), "lr_split--s3": float("inf")}
    text = text_with(
        lambda spec, fid: float("nan") if spec.kind == "baseline" else lacking.get(spec.trial, fid)
    )
    assert re.search(rf"{told}: FID in 2 of \d+ \(seeds 1 and 3\)\.", text)


def test_published_numbers_carry_protocol_and_source(tmp_path):
    text = text_of(study(tmp_path, factors=SHORTEST))
    assert re.search(r"\| LDMLR +\| +68.50 \| best epoch on test \| a paper, table 1 \|", text)


def test_figures_survive_a_study_without_results(tmp_path):
    report = write_report(
        study(tmp_path / "runs", state=lambda spec: "WAITING"), tmp_path / "reports"
    )
    assert "figures/" not in report.path.read_text()


def test_numbers_are_rounded_to_what_their_uncertainty_allows():
    assert value(72.3456, 0.6) == "72.3 ± 0.6"
    assert value(72.3456, 0.012) == "72.346 ± 0.012"
    assert effect(3.21, 1.1, 5.32) == "+3.2 [1.1, 5.3]"
    # without an interval, of one seed: not +0.1 and -0.2
    nan = float("nan")
    assert [effect(one, nan, nan) for one in (3.21, 0.054, -0.163, 0)] == [
        "+3.2",
        "+0.054",
        "-0.16",
        "+0.0",
    ]
    assert (
        value(0.01234, float("nan")) == "0.0123"
        and value(72.3456, float("nan")) == "72.3"
        and value(0.0, 0.0) == "0.0 ± 0.0"
    )
    assert value(-0.02, 1.3) == "0.0 ± 1.3" and value(-0.02, float("nan"), places=1) == "0.0"
    assert value(2.98e-4, 4.1e-7) == "0.0002980 ± 0.0000004"
    assert over_seeds([0.1 + 0.2, 0.3]) == "0.3 ± 0"
    assert value(2.3456, float("nan")) == "2.35" and value(130.4, 0.0) == "130.4 ± 0.0"
    assert effect(-0.059, *[float("nan")] * 2) == "-0.059"
    assert effect(0.34, *[float("nan")] * 2) == "+0.34"
    assert effect(-0.01, -0.52, 0.5) == "+0.0 [-0.5, 0.5]"
    assert (
        effect(3.0, 0.04, 5.96) == "+3.00 [0.04, 5.96]"
    )  # the bound excludes 0 and must be seen to


def test_a_table_keeps_its_columns_whatever_the_cells_hold():
    lines = table(["a", "b"], [["x|y", "1\n2"]], "lr").split("\n")
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [3, 3, 3]


def test_the_report_has_its_sections_in_the_order_of_a_paper(written):
    found = re.findall(r"^## (.*)$", written.read_text(), re.M)
    order = [
        "Accuracy",
        "Effects",
        "Learning curves",
        "Mechanism",
        "Classes",
        "Claims",
        "Failed trials",
        "Trials not finished",
        "Setup",
        "Limits",
        "Provenance",
    ]
    assert found == [section for section in order if section not in ("Claims", "Failed trials")]


def test_effects_come_with_their_figure_and_the_interactions_with_theirs(tmp_path):
    text = write_report(
        study(tmp_path / "runs", factors={name: FACTORS[name] for name in ("lr_split", "warmup")}),
        tmp_path / "reports",
    ).path.read_text()
    effects = text[text.index("## Effects") :]
    assert (
        effects.index("| effect")
        < effects.index("figures/effects.png")
        < effects.index("figures/interactions.png")
    )
    assert (tmp_path / "reports" / "figures" / "interactions.svg").is_file()


def test_each_fix_stands_alone_and_added_last(tmp_path):
    folder = study(tmp_path, noise=0.3, seeds=range(4))
    cells = load(folder).cells("test/top1")
    shown = rows_of(
        re.sub("^### Each", "## Each", text_of(folder), flags=re.M), "Each fix alone, and left out"
    )
    assert {"lr_split: off -> on", "warmup: off -> on", "gradient_decoupling: off -> on"} < set(
        shown
    )
    alone, _, last, _ = shown["lr_split: off -> on"]
    for told, treated, control in [
        (alone, "lr_split", "reference"),
        (last, "lr_split+warmup+gradient_decoupling", "warmup+gradient_decoupling"),
    ]:
        expected = paired_difference(cells[treated], cells[control])
        places = len(told.split()[0].partition(".")[2])
        assert told.strip("*") == effect(*expected[:3], places) and told.startswith("**")


def test_designs_without_lone_fixes_have_no_table_of_them(tmp_path):
    assert "Each fix alone" not in text_of(study(tmp_path, factors=SHORTEST))


def test_one_seed_is_not_said_to_be_paired_or_a_mean_over_seeds(tmp_path):
    folder = study(tmp_path / "runs", factors=SHORTEST, seeds=[0], detail=True)
    text = text_of(folder, drawn=DRAWN)
    assert (
        "paired by seed" not in text
        and "over seeds" not in text.replace("mean over seeds", "")
        and text.count("One seed") >= 3
    )


def test_claims_and_failures_stand_after_the_evidence_and_before_the_setup(tmp_path):
    text = text_of(
        study(tmp_path, claims=[RISES], state=lambda spec: STATES.get(spec.trial, "COMPLETE"))
    )
    found = re.findall(r"^## (.*)$", text, re.M)
    assert found[2:] == [
        "Claims",
        "Failed trials",
        "Trials not finished",
        "Setup",
        "Limits",
        "Provenance",
    ]


def test_limits_and_setup_say_which_images_every_seed_draws(tmp_path):
    facts = {"drawn_per_seed": ["training", "test"]}
    text = text_of(study(tmp_path / "a", factors=SHORTEST, baselines=["ldmlr"], facts=facts))
    assert "every arm the same training and test images, initialisation" in text
    assert "- Seeds vary the training and test images, which are drawn from one data set" in text
    assert "on one training and one test set" not in text and "drawn_per_seed" not in text
    other = {"drawn_per_seed": []}
    text = text_of(study(tmp_path / "b", factors=SHORTEST, baselines=["ldmlr"], facts=other))
    assert "on one training and one test set" in text and "drawn_per_seed" not in text


def test_the_table_says_what_a_spread_over_seeds_is_a_spread_of(tmp_path):
    says = "All seeds start from one pretrained encoder, some.checkpoint."
    known = study(
        tmp_path / "a", factors=SHORTEST, baselines=["ldmlr"], facts={"between_seeds": says}
    )
    text = text_of(known)
    assert says in text.partition("## Effects")[0] and text.count(says) == 1
    assert "None" not in text_of(study(tmp_path / "b", factors=SHORTEST, baselines=["ldmlr"]))


OF_THE_METHOD = ["test set", "nothing is selected", "initialisation", "augmentation", "encoder", "joint training", "warm-up", "Accuracy"]  # fmt: skip


@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        ("training:train", "`training:train`"),
        (Command("python train.py {lr} {seed}").name, "`python train.py {lr} {seed}`"),
    ],
    ids=["a function", "a command"],
)
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_report_on_own_code_says_nothing_that_only_the_built_in_method_can(
    tmp_path, subject, shown, seeds
):
    told = {"factors": SHORTEST, "baselines": [], "reference": None, "seeds": seeds}
    figures = ["accuracy", "effects", "learning_curves", "mechanism"]
    built_in = text_of(study(tmp_path / "core", **told, detail=True), figures)
    own = text_of(study(tmp_path / "own", **told, detail=True, subject=subject), figures)

    def said(text):
        # without what the fabricated names of factors, settings and metrics bring with them
        text = text.partition("## Provenance")[0]
        lines = [line for line in text.splitlines() if not line.startswith(("|", "!", "**", "# "))]
        return [words for words in OF_THE_METHOD if words in "\n".join(lines)]

    assert said(own) == []
    assert set(said(built_in)) >= {"test set", "nothing is selected", "initialisation", "encoder"}
    assert shown in own and "is not known here" in own


def test_a_metric_of_own_code_keeps_the_letters_of_its_name(tmp_path):
    folder = study(tmp_path, subject="train.py:train", metric={"name": "mIoU", "goal": "maximize"})
    for spec in folder.manifest().trials:
        metrics = {"mIoU": 0.5 + spec.seed / 100, "best/mIoU": 0.6}
        folder.write_outcome(spec.trial, replace(folder.outcome(spec.trial), metrics=metrics))
    text = text_of(folder)
    assert "The metric mIoU is what each trial gave for it last" in text
    assert "best/mIoU: the best epoch" in text
