"""A researcher opens the study in MLflow's own interface, and compares two arms."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from ablation.storage.runs import Manifest, Outcome, RunFolder, TrialSpec, failure

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),  # inside MLflow
]

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, CHROMEDRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
WAIT_SECONDS = 30
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
FACTORS = {
    "lr_split": {"off": {"optim.lr.encoder": 1e-3}, "on": {"optim.lr.encoder": 1e-5}},
    "gradient_decoupling": {"off": {"routing": "summed"}, "on": {"routing": "decoupled"}},
}
ARMS = {
    "none": ({"lr_split": "off", "gradient_decoupling": "off"}, 61.0),
    "lr_split": ({"lr_split": "on", "gradient_decoupling": "off"}, 70.0),
    "gradient_decoupling": ({"lr_split": "off", "gradient_decoupling": "on"}, 63.0),
    "lr_split+gradient_decoupling": ({"lr_split": "on", "gradient_decoupling": "on"}, 72.0),
}
N_EPOCHS = 8
LINE_ENDS = """
const key = arguments[0];
const charts = [...document.querySelectorAll('.js-plotly-plot')];
const lines = charts.flatMap(chart => chart.data || []).filter(line => line.metricKey === key);
return lines.length ? lines.filter(line => line.mode === 'lines+markers').map(line => line.y.at(-1)) : null;
"""
"""The last value of each line of a metric that is drawn in bold; null until there are any."""
COLUMNS = """
const right = element => element.getBoundingClientRect().right;
const heads = [...document.querySelectorAll('[role=columnheader][col-id^=metrics]')];
return [
  [...document.querySelectorAll('.ag-root')].map(right),
  Object.fromEntries(heads.map(head => [head.getAttribute('col-id'), right(head)])),
];
"""
"""Where the table ends, and each column of a metric."""
FAILED = "ce--s1"


def trials(seeds: Iterable[int]) -> list[TrialSpec]:
    specs = []
    for seed in seeds:
        for arm, (levels, _) in ARMS.items():
            settings = {"data.name": "digits-lt"}
            for factor, level in levels.items():
                settings |= FACTORS[factor][level]
            specs.append(
                TrialSpec(
                    f"{arm}--s{seed}", arm, "arm", levels, seed, f"{arm}-{seed}", settings, 8, 8, 0
                )
            )
        settings = {"data.name": "digits-lt", "method": "ce"}
        specs.append(
            TrialSpec(f"ce--s{seed}", "ce", "baseline", {}, seed, f"ce-{seed}", settings, 8, 8, 0)
        )
    return specs


def records(top1: float, seed: int) -> list[dict]:
    found = [{"phase": "pretrain", "epoch": 1, "seconds": 3.0, "metrics": {"pretrain/loss": 0.9}}]
    for epoch in range(1, N_EPOCHS + 1):
        progress = 1 - 0.5**epoch
        accuracy = top1 * progress + seed
        metrics = {
            "train/real_loss": 2.3 * (1 - progress),
            "train/diffusion_loss": 1.0 - 0.6 * progress,
            "test/top1": accuracy,
            "test/many": accuracy + 15,
            "test/medium": accuracy,
            "test/few": accuracy - 25,
            "test/ece": 20 * (1 - progress),
            "grad/encoder": 0.1 + 1 / epoch,
            "grad/conflict_cosine": -0.2 + 0.02 * epoch,
            "diag/latent_drift": 0.05 * epoch,
            "diag/effective_rank": 20 - epoch,
            "gen/radius_ratio": 1.3 - 0.02 * epoch,
        }
        phase = "warmup" if epoch < 3 else "joint"
        found.append({"phase": phase, "epoch": epoch, "seconds": 3.0, "metrics": metrics})
    return found


def fabricate(folder: RunFolder, seeds: Sequence[int]) -> None:
    specs = trials(seeds)
    folder.write_manifest(
        Manifest(
            study="fixes",
            experiment="digits-lt",
            title="Digits, long-tailed",
            question="Which of the fixes makes joint training work?",
            dataset="digits-lt",
            design=["factorial"],
            metric={"name": "test/top1", "goal": "maximize"},
            factors=FACTORS,
            seeds=list(seeds),
            baselines=["ce"],
            reference="ce",
            claims=[],
            trials=specs,
            published=[],
            facts={},
            provenance={"commit": "0123abc", "dirty": False},
        )
    )
    for spec in specs:
        folder.write_config(spec, spec.settings)
        found = records(ARMS.get(spec.arm, ({}, 66.0))[1], spec.seed)
        folder.write_records(spec.trial, found)
        last = found[-1]["metrics"]
        times = "2026-03-01T10:00:00+00:00", "2026-03-01T10:00:27+00:00"
        metrics = {**last, "best/test/top1": last["test/top1"]}
        vectors = {
            "test/top1_per_class": [last["test/top1"] + 15 - 4 * index for index in range(10)]
        }
        outcome = Outcome("COMPLETE", metrics, 27.0, None, *times, vectors)
        if spec.trial == FAILED:
            outcome = Outcome("FAILED", {}, 27.0, failure("ValueError", "no"), *times)
        folder.write_outcome(spec.trial, outcome)


def linked(line: str, name: str) -> str:
    """The link of a line that `ablate ui` prints."""
    said, _, link = line.partition(": ")
    assert said.strip() == name
    return link.strip()


@pytest.fixture
def links(tmp_path, monkeypatch, request):
    """View -> where it can be seen of a synced study, served by a process that a signal ends.

    The signal is SIGINT, as of Ctrl-C, and there are two seeds, where the parameter has no others.
    """
    options = {"signal": signal.SIGINT, "seeds": (0, 1)} | getattr(request, "param", {})
    from ablation.tracking.mlflow_sync import Tracker

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    folder = RunFolder(tmp_path / "runs" / "fixes")
    fabricate(folder, options["seeds"])
    reports = tmp_path / "reports" / "fixes"
    reports.mkdir(parents=True)
    (reports / "report.md").write_text("# Fixes\n")
    Tracker().sync(folder, reports)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # SIGINT is ignored by what is started in the background of a shell, and by its children.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"from ablation.tracking.mlflow_ui import serve; serve(port={port})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert (
            process.stdout.readline()
            == f"MLflow is served at http://127.0.0.1:{port} (Ctrl-C ends it)\n"
        )
        yield {
            "arms": linked(process.stdout.readline(), "fixes"),
            "trials": linked(process.stdout.readline(), "trials"),
            "curves": linked(process.stdout.readline(), "learning curves"),
        }
    finally:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(options["signal"])
        assert process.wait(timeout=30) == 0
    assert children and not any(Path("/proc", child).exists() for child in children)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server outlived the command"


def without_view(link: str) -> str:
    """The link as it was before there were views."""
    return link.partition("&viewStateShareKey=")[0]


@pytest.fixture
def window(request) -> str:
    """Width and height in pixels; with a parameter, that."""
    return getattr(request, "param", "1600,1000")


@pytest.fixture
def browser(tmp_path, window):
    if not (CHROMIUM.exists() and CHROMEDRIVER.exists()):
        pytest.skip("needs /usr/bin/chromium and /usr/bin/chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS, f"--window-size={window}", f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(CHROMEDRIVER)))
    yield driver
    driver.quit()


class Page:
    """What a researcher does and sees."""

    def __init__(self, driver, pictures: Path):
        self.driver, self.pictures = driver, pictures

    def click(self, xpath: str) -> None:
        waiting = WebDriverWait(self.driver, WAIT_SECONDS)
        element = waiting.until(
            lambda driver: driver.find_element(By.XPATH, xpath), f"nothing at {xpath}"
        )
        self.driver.execute_script(
            "arguments[0].click()", element
        )  # the table's checkboxes lie under an ornament

    def row(self, run: str) -> str:
        return f"//div[@role='row'][.//a[normalize-space()='{run}']]"

    def wait_for(self, *texts: str) -> str:
        def shown(driver) -> str | None:
            seen = driver.find_element(By.TAG_NAME, "body").text
            return seen if all(text in seen for text in texts) else None

        return WebDriverWait(self.driver, WAIT_SECONDS).until(shown, f"not all of {texts} appeared")

    def picture(self, name: str) -> None:
        self.driver.save_screenshot(str(self.pictures / f"{name}.png"))


@pytest.mark.parametrize("links", [{"seeds": range(21)}], indirect=True)
def test_arms_are_seen_first_with_their_means_the_best_on_top(links, browser, tmp_path):
    """Of 105 trials: MLflow loads a hundred, of which its own means would be."""
    page = Page(browser, tmp_path)
    browser.get(links["arms"])
    arms = ["lr_split+gradient_decoupling", "lr_split", "ce", "gradient_decoupling", "none"]
    seen = page.wait_for(*arms, "arm/seeds", "5 matching runs").splitlines()
    page.picture("1-arms")
    places = [seen.index(arm) for arm in arms]
    assert places == sorted(places) and "Error" not in seen
    for arm, n_seeds in zip(arms, (21, 21, 20, 21, 21), strict=True):
        # trial s1 of ce has failed
        seeds = [seed for seed in range(21) if (arm, seed) != ("ce", 1)]
        learned = ARMS.get(arm, ({}, 66.0))[1] * (1 - 0.5**N_EPOCHS)
        assert f"{learned + sum(seeds) / len(seeds):.4f}".rstrip("0") in seen
        assert str(n_seeds) in seen
    # trials and the study's own run are no arms
    assert "none--s0" not in seen and "fixes on digits-lt" not in seen


@pytest.mark.parametrize("links", [{"signal": signal.SIGHUP}], indirect=True)
def test_two_arms_can_be_compared_in_the_interface(links, browser, tmp_path):
    page = Page(browser, tmp_path)
    browser.get(links["trials"])
    page.wait_for("none--s0", "lr_split--s1", "ce--s0")
    page.picture("2-trials")
    for run in ("none--s0", "lr_split--s0"):
        page.click(
            f"{page.row(run)}//input[@type='checkbox' and contains(@aria-label, 'row selection')]"
        )
    page.click("//button[normalize-space()='Compare']")
    seen = page.wait_for("optim.lr.encoder", "test/top1", "gradient_decoupling")
    page.picture("3-compare")
    assert "Comparing 2 Runs" in seen
    assert {"1e-05", "0.001", "none--s0", "lr_split--s0"} <= set(seen.split())


def test_learning_curves_have_a_line_for_each_arm(links, browser, tmp_path):
    page = Page(browser, tmp_path)
    browser.get(links["curves"])
    page.wait_for("Learning curves", "test/top1", "lr_split (test/top1)", "none (test/top1)")
    page.picture("4-curves")


def test_curves_end_at_the_means_of_the_table(links, browser, tmp_path):
    """Lines that MLflow smooths end far from them."""
    page = Page(browser, tmp_path)
    browser.get(links["curves"])
    page.wait_for("lr_split (test/top1)", "none (test/top1)")
    ends = WebDriverWait(browser, WAIT_SECONDS).until(
        lambda driver: driver.execute_script(LINE_ENDS, "test/top1")
    )
    # seeds 0 and 1 are half a point above what an arm has learned
    means = [learned * (1 - 0.5**N_EPOCHS) + 0.5 for _, learned in ARMS.values()]
    # of the baseline trial s1 has failed, and is left out
    means.append(66.0 * (1 - 0.5**N_EPOCHS))
    assert sorted(ends) == pytest.approx(sorted(means), abs=0.01)


@pytest.mark.parametrize("window", ["1400,800"], indirect=True)
def test_a_narrow_window_shows_metric_spread_and_seeds_of_an_arm(links, browser, tmp_path):
    """Beside MLflow's menu and its assistant."""
    page = Page(browser, tmp_path)
    browser.get(links["arms"])
    page.wait_for("arm/seeds", "MLflow Assistant")
    (right,), heads = browser.execute_script(COLUMNS)
    page.picture("6-narrow")
    for name in ("test/top1", "std/test/top1", "arm/seeds"):
        assert heads[f"metrics.`{name}`"] <= right, name


@pytest.mark.parametrize("links", [{"signal": signal.SIGTERM}], indirect=True)
def test_study_says_its_question_and_its_result_on_its_page(links, browser, tmp_path):
    page = Page(browser, tmp_path)
    browser.get(without_view(links["arms"]))
    page.click("//a[normalize-space()='fixes on digits-lt']")
    page.wait_for(
        "Which of the fixes makes joint training work?", "lr_split+gradient_decoupling", "± 0.7"
    )
    page.click("//button[normalize-space()='Show more']")
    page.wait_for("test/ on the test set, accuracies in percent", "diag/ of the latents")
    page.picture("5-parent")
