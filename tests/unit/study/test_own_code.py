"""Functions and commands in a whole study: killed, limited, watched while they run, and the threads that they get."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from own_training import processes_here, processes_left
from toy_subject import Toy

from ablation import INSTALLED_IN
from ablation.errors import InputError
from ablation.execution.workers import THREAD_VARIABLES, threads_of_each
from ablation.planning.forecast import Listener
from ablation.study import running
from ablation.study.live import continuation
from ablation.study.opening import open_study
from ablation.study.placement import placement
from ablation.study.running import RunOptions, train
from ablation.study.views import describe_plan
from ablation.subject.command import Command, CommandSubject
from ablation.subject.loading import FunctionSubject

GRID = """
study: own
experiment: e
metric: {name: value, goal: maximize}
seeds: 2
factors: {rate: {slow: {rate: 1}, fast: {rate: 2}}}
"""
# numbers drawn before and after the kill come from one generator, whose state is in the checkpoint
FUNCTION = """
import json, os, random, signal, time
from pathlib import Path

def train(config, seed, report, resume_from=None):
    draw, first, value = random.Random(seed), 1, 0.1
    if resume_from:
        first, value, (version, state, more) = json.loads(resume_from)
        draw.setstate((version, tuple(state), more))
    with open(f"ran-{config['rate']}-{seed}", "a") as log:
        for epoch in range(first, 9):
            value = value * 1.1 + config["rate"] * draw.gauss(0, 1)
            log.write(f"{epoch} "), log.flush()
            time.sleep(config["seconds"])
            report(epoch, {"value": value}, checkpoint=json.dumps([epoch + 1, value, draw.getstate()]).encode())
            mark = Path(f"killed-{epoch}")
            if epoch in config["killed"] and not mark.exists():
                mark.write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
    return {"value": value}
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("ablation.study.opening.provenance", dict)
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "g.yaml").write_text(GRID)
    yield tmp_path
    for name in ("own_function", "late_values", "seen_threads"):
        sys.modules.pop(name, None)


def experiment(subject, **settings) -> None:
    Path("e.yaml").write_text(json.dumps({"subject": subject, "settings": {"rate": 1, **settings}}))


def command(text, more="--rate {rate}", **told) -> dict:
    Path("train.py").write_text(text)
    return {"command": f"{sys.executable} train.py {{seed}} {more}", **told}


def run(listener=None, jobs=2, **options):
    planned, options = open_study(Path("g.yaml")), RunOptions(jobs=jobs, offline=True, **options)
    with placement(planned, options) as placed:
        done = train(planned, options, listener or Listener(), jobs, placed.make_workers)
    return planned, done


def curves(planned):
    return {
        spec.trial: [
            (record["epoch"], record["metrics"]) for record in planned.folder.records(spec.trial)
        ]
        for spec in planned.plan.specs
    }


def test_a_function_whose_worker_is_killed_ends_as_one_that_was_not_bit_by_bit(project):
    Path("own_function.py").write_text(FUNCTION)
    # more often than a trial may lose workers without progress
    experiment("own_function:train", seconds=0, killed=[2, 3, 5, 6, 7])
    planned, done = run(jobs=1)
    assert done.failed == {} and done.n_trained == 4
    assert Path("ran-1-0").read_text().split() == [str(epoch) for epoch in range(1, 9)]
    found = curves(planned)
    assert all([epoch for epoch, _ in curve] == list(range(1, 9)) for curve in found.values())
    experiment("own_function:train", seconds=0, killed=[])
    assert curves(run()[0]) == found


def test_a_study_that_is_killed_goes_on_from_the_last_checkpoints(project):
    Path("own_function.py").write_text(FUNCTION)
    experiment("own_function:train", seconds=0.04, killed=[])
    line = [sys.executable, "-P", "-m", "ablation", "run", "--grid", "g.yaml", "--offline"]
    environment = {**os.environ, "PYTHONPATH": str(INSTALLED_IN)}
    study = subprocess.Popen([*line, "--jobs", "1"], env=environment, stdout=subprocess.DEVNULL)
    first = Path("runs/own/reference--s0/metrics.jsonl")
    while not (first.exists() and first.read_text().count("\n") >= 3):
        assert study.poll() is None
        time.sleep(0.01)
    study.send_signal(signal.SIGKILL)
    study.wait()
    while [pid for pid in processes_here() if pid != os.getpid()]:
        time.sleep(0.05)
    planned, _ = run()
    # at most the epoch in hand is run again
    ran = Path("ran-1-0").read_text().split()
    assert len(ran) <= 9 and sorted(set(ran)) == [str(epoch) for epoch in range(1, 9)]
    found = curves(planned)
    experiment("own_function:train", seconds=0, killed=[])
    assert curves(run()[0]) == found


class Watching(Listener):
    """Keeps what is reported, and what the files hold then."""

    def __init__(self):
        self.seen = []

    def reported(self, specs, record):
        for spec in specs:
            path = Path("runs/own") / spec.trial / "metrics.jsonl"
            n_lines = path.read_text().count("\n") if path.exists() else 0
            self.seen.append((spec.trial, record["epoch"], n_lines))


@pytest.mark.parametrize("kind", ["function", "command"])
def test_epochs_reach_listeners_and_files_while_the_trial_runs(kind):
    Path("own_function.py").write_text(FUNCTION)
    if kind == "function":
        experiment("own_function:train", seconds=0.02, killed=[])
    else:
        text = "import time\nfor e in range(1, 9):\n    print(f'epoch={e} value={e * 1.5}')\n    time.sleep(0.06)\n"
        experiment(command(text))
    watching = Watching()
    planned, _ = run(watching)
    for spec in planned.plan.specs:
        own = [(epoch, n_lines) for trial, epoch, n_lines in watching.seen if trial == spec.trial]
        # the epoch before is whole, and so in the file, once the next is reported
        assert own == [(epoch, epoch - 1) for epoch in range(1, 9)]
        assert [epoch for epoch, _ in curves(planned)[spec.trial]] == list(range(1, 9))
        assert not (planned.folder.trial_path(spec.trial) / "work").exists()


def test_what_a_trial_has_reported_before_it_failed_is_kept():
    experiment(
        command(
            "import sys\nprint('epoch=1 value=1')\nprint('epoch=2 value=2')\nsys.exit('lost')\n"
        )
    )
    planned, done = run(keep_going=True)
    said = "CommandFailed: exit code 1: lost; see runs/own/{}/stdout.log"
    assert done.failed == {trial: said.format(trial) for trial in curves(planned)}
    assert set(map(len, curves(planned).values())) == {2}
    log = planned.folder.trial_path("reference--s0") / "stdout.log"
    assert log.read_text() == "epoch=1 value=1\nepoch=2 value=2\nlost\n"
    # nothing is run again, and nothing is damaged
    assert run()[1].n_trained == 0 and planned.folder.damage("reference--s0") == {}


def test_arms_that_are_named_run_alone_and_the_others_later(capsys):
    experiment(command("import sys; print('value:', sys.argv[3])", "--rate {rate}"))
    options = RunOptions(jobs=1, offline=True, only=["rate=fast"])
    planned = open_study(Path("g.yaml"))
    done = running.run(planned, options)
    assert done.n_trained == 2 and done.n_left_out == 2 and done.n_open == 0
    assert {trial for trial, curve in curves(planned).items() if curve} == {
        "rate=fast--s0",
        "rate=fast--s1",
    }
    assert "trials of other arms that are to go: 2;" in capsys.readouterr().out
    running.run(open_study(Path("g.yaml")), options)
    assert "nothing to train: all 2 trials of these arms" in capsys.readouterr().out
    done = running.run(planned, replace(options, only=["reference"]))
    assert done.n_trained == 2 and done.n_left_out == 0
    assert "report: " in capsys.readouterr().out


def test_an_arm_that_is_not_there_is_named_with_the_nearest():
    experiment(command("print('value: 1')"))
    with pytest.raises(InputError, match="no arm 'rate=fats'; did you mean 'rate=fast'"):
        running.run(open_study(Path("g.yaml")), RunOptions(only=["rate=fats"]))


# the trial that runs first edits it, as a person does while a study runs
EDITED = """
import pathlib, sys

VALUE = 1

def train(config, seed, report):
    file = pathlib.Path(__file__)
    file.write_text(file.read_text().replace("VALUE = 1\\n", "VALUE = 500\\n"))
    return {"value": VALUE * config["rate"]}

if __name__ == "__main__":
    print("value:", train({"rate": int(sys.argv[-1])}, 0, None)["value"])
"""


@pytest.mark.parametrize("kind", ["function", "command"])
def test_code_that_is_edited_while_a_study_runs_gives_results_of_one_text_alone(kind):
    Path("own_function.py").write_text(EDITED)
    experiment(
        {"command": f"{sys.executable} own_function.py {{seed}} {{rate}}"}
        if kind == "command"
        else "own_function:train"
    )
    _, done = run(jobs=1)
    assert done.is_outdated and done.n_trained == 1 and done.n_open == 3 and done.failed == {}
    sys.modules.pop("own_function", None)
    planned, done = run(jobs=1)
    assert not done.is_outdated and done.n_open == 0
    last = {trial: curve[-1][1]["value"] for trial, curve in curves(planned).items()}
    assert sorted(last.values()) == [500, 500, 1000, 1000]


LATE = """
import pathlib

def train(config, seed, report):
    file = pathlib.Path("late_values.py")
    file.write_text(file.read_text().replace("VALUE = 1\\n", "VALUE = 500\\n"))
    import late_values
    return {"value": late_values.VALUE}
"""


def test_a_module_that_changes_before_a_function_imports_it_gives_no_result():
    Path("own_function.py").write_text(LATE)
    Path("late_values.py").write_text("VALUE = 1\n")
    experiment("own_function:train")
    _, done = run(jobs=1)
    assert done.is_outdated and done.n_trained == 0 and done.failed == {}
    planned, done = run(jobs=1)
    assert {curve[-1][1]["value"] for curve in curves(planned).values()} == {500}


def test_failures_of_other_arms_stay_as_they_are(project):
    experiment(command("import sys; assert sys.argv[3] == '3'", "--rate {rate}"))
    planned, _ = run(jobs=1)
    for options in ({"only": ["rate=fast"], "retry_failed": True}, {"only": ["rate=fast"]}):
        done = running.run(open_study(Path("g.yaml")), RunOptions(jobs=1, offline=True, **options))
        assert done.n_left_out == 0 and len(done.failed) == 4 and done.n_complete == 0
    assert planned.folder.outcome("reference--s0").state == "FAILED"


def test_a_plan_of_one_arm_is_no_other_plan_of_the_study(capsys):
    claim = "{id: a, says: A., contrast: {factor: rate, from: slow, to: fast}, expects: [{metric: value, direction: up}]}"
    Path("g.yaml").write_text(f"{GRID}claims: [{claim}]\n")
    experiment(command("import sys; print('value:', sys.argv[3])", "--rate {rate}"))
    running.run(open_study(Path("g.yaml")), RunOptions(jobs=1, offline=True))
    capsys.readouterr()
    describe_plan(open_study(Path("g.yaml")), 1, ["rate=fast"])
    told = capsys.readouterr().out
    assert "post hoc" not in told and "2 trials, 0 left to train" in told


def test_arms_and_studies_share_what_is_the_same():
    calls = "import sys; open('calls', 'a').write('x'); print('value=1')"
    experiment(command(calls))
    assert run()[1].n_trained == 4
    Path("g.yaml").write_text(GRID.replace("study: own", "study: other"))
    assert run()[1].n_trained == 0 and Path("calls").read_text() == "xxxx"
    Path("train.py").write_text(calls + "\ndone = True\n")
    assert run()[1].n_trained == 4


def test_a_metric_is_mended_without_training_while_no_trial_is_complete(monkeypatch):
    monkeypatch.setattr("ablation.reporting.figures.draw", lambda *arguments: [])

    def run_whole(metric):
        Path("g.yaml").write_text(GRID.replace("name: value", f"name: {metric}"))
        return running.run(open_study(Path("g.yaml")), RunOptions(jobs=2, offline=True))

    # which of the two is the result would be a guess
    experiment(command("print('test value: 62.4%  train value: 99.0%')\n"))
    done = run_whole("value")
    said = "MissingMetric: the last record does not hold the metric 'value'; it holds {}"
    assert set(done.failed.values()) == {said.format("test/value, train/value")}
    assert len(done.failed) == 4
    done = run_whole("test/value")
    assert (done.failed, done.n_failed_before, done.n_trained) == ({}, 0, 0)
    folder = open_study(Path("g.yaml")).folder
    assert folder.outcome("rate=fast--s1").metrics["test/value"] == 62.4
    # now there are results
    with pytest.raises(InputError, match=r"--as NAME \(what has been trained is reused\)"):
        run_whole("train/value")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("print('loss=1'), print('value: 71,2')", "loss; it was printed as 'value: 71,2': write a decimal point and no comma"),
        ("print('top-1 value: 71'), print('top-5 value: 9')", "none; it was printed as 'top-1 value' and 'top-5 value': give each a name of its own, without spaces"),
        ("print('71 points')", "none; print 'value=0.5', 'value: 0.5' or a JSON object"),
    ],
    ids=["comma", "words", "nothing"],
)  # fmt: skip
def test_a_missing_metric_is_quoted_as_it_was_printed(text, why):
    experiment(command(text))
    Path("g.yaml").write_text(GRID.replace("seeds: 2", "seeds: 1"))
    said = f"MissingMetric: the last record does not hold the metric 'value'; it holds {why}"
    assert set(run()[1].failed.values()) == {said}


@pytest.mark.parametrize(
    ("text", "gpus", "options", "is_warned"),
    [
        ("import torch\n", "2,3", {}, True),
        ("import torch\n", "2,3", {"jobs": 1}, False),
        ("import torch\n", "2,3", {"trials_per_gpu": 1}, False),
        ("import torch\n", "2,3", {"gpus": "2"}, False),
        ("import torch\n", "", {}, False),
        ("import json\n", "2,3", {}, False),
    ],
)
def test_own_code_whose_trials_may_all_take_one_gpu_is_warned_of(
    text, gpus, options, is_warned, monkeypatch, capsys
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr("ablation.study.placement.n_processors", lambda: 4)
    experiment(command(text))
    with placement(open_study(Path("g.yaml")), RunOptions(**options)):
        pass
    said = "4 trials at a time may all use GPU 2; --trials-per-gpu N shares out the 2 GPUs that are visible\n"
    assert capsys.readouterr().err == said * is_warned


SAVES = """
import sys
from pathlib import Path
seed, folder, rate = sys.argv[1:]
(Path(folder) / "deep").mkdir()
Path("data").mkdir(exist_ok=True), Path("data/x.npy").touch()
(Path(folder) / "data").symlink_to(Path("data").resolve())
for name in ("model.pt", "deep/a.npy", "log.txt"):
    (Path(folder) / name).write_text(rate)
(Path(folder) / "latest.pt").symlink_to("model.pt"), (Path(folder) / "double").symlink_to("deep")
if Path("broken").exists() and seed == "1":
    sys.exit(1)
print("value=" + seed + rate)
"""


def kept(trial):
    folder = Path("runs/own", trial)
    assert not (folder / "work").exists()
    files = (path for path in (folder / "files").rglob("*") if path.is_file())
    return {path.relative_to(folder / "files").as_posix(): path.read_text() for path in files}


def test_the_files_that_are_to_be_kept_of_a_complete_trial_stay(monkeypatch, caplog):
    subject = command(
        SAVES, "{folder} {rate}", keep=["*.pt", "deep/*", "d*", "data/*.npy", "*.csv"]
    )
    experiment(subject)
    Path("broken").touch()
    assert len(run()[1].failed) == 2
    # what a link to a file holds; of a link to a folder nothing
    fast = {"model.pt": "2", "latest.pt": "2", "deep/a.npy": "2"}
    assert Path("data/x.npy").exists() and not any(Path("runs").rglob("files/d[ao][tu]*"))
    assert (kept("rate=fast--s0"), kept("rate=fast--s1")) == (fast, {})
    assert caplog.messages == [
        f"keep: a trial has left no file '{none}'" for none in ("data/*.npy", "*.csv")
    ]
    # a record that is damaged comes from the cache, and the files are as they were
    Path("runs/own/rate=fast--s0/metrics.jsonl").write_text("")
    assert run()[1].n_trained == 0 and kept("rate=fast--s0") == fast
    # those of a trial that has changed go, also where the new one's results are in the cache
    experiment(subject, rate=3)
    run()
    Path("g.yaml").write_text(
        GRID.replace("fast: {rate: 2}", "fast: {rate: 1}").replace(
            "slow: {rate: 1}", "slow: {rate: 2}"
        )
    )
    done = run()[1]
    assert done.n_trained == 0 and kept("rate=fast--s0") == {}


def test_files_stay_where_the_metric_is_mended_without_training(monkeypatch):
    monkeypatch.setattr("ablation.reporting.figures.draw", lambda *arguments: [])
    experiment(command(SAVES, "{folder} {rate}", keep=["*.pt"]))
    Path("g.yaml").write_text(GRID.replace("value", "valeu"))
    assert len(run()[1].failed) == 4
    Path("g.yaml").write_text(GRID)
    done = running.run(open_study(Path("g.yaml")), RunOptions(jobs=2, offline=True))
    assert (done.failed, done.n_trained) == ({}, 0)
    assert kept("rate=fast--s0") == {"model.pt": "2", "latest.pt": "2"}


@pytest.mark.parametrize("pattern", ["../x", "/x", "a/**", "", "x**", 5])
def test_what_is_no_pattern_of_files_in_the_folder_is_refused(pattern):
    experiment(command("", "{folder} {rate}", keep=[pattern]))
    with pytest.raises(
        InputError, match=r"subject.keep\[0\]: .* is no pattern of files in {folder}"
    ):
        open_study(Path("g.yaml"))


def test_files_can_be_kept_where_the_command_has_the_folder_and_no_nodes_run_it():
    experiment(command("", keep=["*.pt"]))
    with pytest.raises(InputError, match="does not mention {folder}, of which `keep` names files"):
        open_study(Path("g.yaml"))
    experiment(command("", "{folder} {rate}", keep=["*.pt"]))
    planned = open_study(Path("g.yaml"))
    with (
        pytest.raises(InputError, match="--executor: ray: the files that `keep` names would stay"),
        placement(planned, RunOptions(executor="ray")),
    ):
        pass


NOT_READ = {
    "print('loss=1'), print('Value 71')": "loss; 'Value 71' is not read: ",
    "import logging; logging.warning('value=%d', 71)": "none; print 'value=0.5', 'value: 0.5' or a JSON object; "
    "'WARNING:root:value=71' is not read: ",
}  # fmt: skip


def test_a_line_that_was_read_is_not_quoted_as_one_that_was_not():
    """The grid has another name for it."""
    experiment(command("print('acc: 71')"))
    Path("g.yaml").write_text(GRID.replace("name: value", "name: test/acc"))
    (said,) = set(run()[1].failed.values())
    assert "it holds acc" in said and "not read" not in said


def test_of_standard_error_the_other_stream_is_the_remedy():
    experiment(command("print('value=71')", metrics="stderr"))
    (said,) = set(run()[1].failed.values())
    assert said.endswith("to standard error, or set `metrics: stdout` or a `pattern`")


@pytest.mark.parametrize(("text", "why"), NOT_READ.items(), ids=["in another form", "by logging"])
def test_the_line_by_which_a_missing_metric_was_told_is_quoted(text, why):
    experiment(command(text))
    Path("g.yaml").write_text(GRID.replace("seeds: 2", "seeds: 1"))
    remedy = "print value=0.5 to standard output, or set `metrics: stderr` or a `pattern`"
    said = (
        f"MissingMetric: the last record does not hold the metric 'value'; it holds {why}{remedy}"
    )
    assert set(run()[1].failed.values()) == {said}


@pytest.mark.parametrize(
    ("subject", "then"),
    [
        (CommandSubject(Command(f"{sys.executable} -V {{seed}}")), "begins them anew"),
        (FunctionSubject(lambda config, seed, report: {}), "begins them anew"),
        (FunctionSubject(lambda config, seed, report, resume_from: {}), "from their last checkpoints"),
        (Toy(), "from their last epochs"),
    ],
    ids=["command", "function", "resumable function", "chain of epochs"],
)  # fmt: skip
def test_what_an_interruption_costs_is_told_as_it_is(subject, then):
    assert continuation(subject).endswith(then)


SLEEPS = "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"


@pytest.mark.parametrize(
    ("text", "options", "error"),
    [
        (SLEEPS + "time.sleep(600)\n", {"seconds_per_trial": 1.0}, "TimeLimit: "),
        (SLEEPS + "x = bytearray(400_000_000)\nx[::4096] = x[::4096]\ntime.sleep(600)\n", {"bytes_per_worker": 250_000_000}, "MemoryLimit: "),
    ],
    ids=["time", "memory"],
)  # fmt: skip
def test_a_limit_ends_a_command_with_all_that_it_has_started(text, options, error):
    experiment(command(text))
    Path("g.yaml").write_text(GRID.replace("seeds: 2", "seeds: 1"))
    _, done = run(**options)
    assert len(done.failed) == 2 and all(why.startswith(error) for why in done.failed.values())
    assert processes_left() == []


def test_ctrl_c_ends_commands_at_once_and_the_same_command_goes_on():
    experiment(command("import time\nopen('begun', 'w').write('1')\ntime.sleep(600)\n"))
    line = [sys.executable, "-P", "-m", "ablation", "run", "--grid", "g.yaml", "--offline"]
    environment = {**os.environ, "PYTHONPATH": str(INSTALLED_IN)}
    study = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    while not Path("begun").exists():
        time.sleep(0.01)
    study.send_signal(signal.SIGINT)
    said, _ = study.communicate(timeout=30)
    assert study.returncode == 130
    assert "interrupted with 4 trials to go; the same command begins them anew" in said
    assert "stop the trials in hand, the same command begins them anew" in said
    assert processes_left() == []
    experiment(command("print('value=1')"))
    assert run()[1].n_trained == 4


# --- threads

SEEN = """
import os
AT_IMPORT = {counted}

def train(config, seed, report):
    names = {names}
    told = {{name: float(os.environ.get(name, -1)) for name in names}}
    return {{"value": AT_IMPORT, **told}}
"""


@pytest.mark.parametrize(
    "counted",
    ["1.0", pytest.param("__import__('torch').get_num_threads()", marks=pytest.mark.long)],
    ids=["by the environment", "by torch"],
)
def test_workers_share_the_cores_among_them(counted, monkeypatch):
    text = SEEN.format(names=THREAD_VARIABLES, counted=counted)
    Path("seen_threads.py").write_text(text)
    experiment("seen_threads:train")
    # alone, torch has as many threads as there are cores; MKL allows it no more
    monkeypatch.setattr("ablation.study.placement.n_processors", lambda: 2)
    planned, _ = run()
    outcome = planned.folder.outcome("reference--s0")
    assert outcome.metrics == {"value": 1.0, "best/value": 1.0, **dict.fromkeys(THREAD_VARIABLES, 1.0)}  # fmt: skip


@pytest.mark.parametrize(("cores", "jobs", "each"), [(8, 3, 2), (2, 2, 1), (2, 5, 1), (8, 1, 8)])
def test_each_gets_at_least_one_thread_and_none_if_the_user_says_so(cores, jobs, each, monkeypatch):
    assert threads_of_each(cores, jobs) == dict.fromkeys(THREAD_VARIABLES, str(each))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_of_each(cores, jobs) == {}
