"""A command line as a subject: its arguments, its key, and how its process runs and ends."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from own_training import processes_left
from tiny_trials import MemoryStore

from ablation import interruption
from ablation.errors import InputError
from ablation.grid.file import read_experiment
from ablation.grid.load import load_study
from ablation.subject.command import Command, CommandSubject
from ablation.subject.loading import load_subject
from ablation.subject.measured import READER
from ablation.subject.own import Place
from ablation.subject.spawned import CommandFailed

ECHO = "import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], open('seen', 'w')); print('acc=1')"
PYTHON = sys.executable


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def subject_of(command, **more) -> CommandSubject:
    return CommandSubject(Command(command, **more))


def script(text, name="train.py") -> str:
    """Write a script that takes any arguments; returns the command that runs it."""
    Path(name).write_text(text)
    return f"{PYTHON} {name}"


def key(subject, settings=None, seed=0):
    return subject.chain(settings or {}, seed, lambda key: None)[0].key


def ran(subject, settings=None, seed=0, place=None):
    """The record of a trial, and the epochs that were told while it ran."""
    told = []
    place = place or Place(
        "a--s0", Path("work").resolve(), on_epoch=lambda *each: told.append(each)
    )
    store = MemoryStore()
    subject.advance(settings or {}, seed, None, store, lambda key, record: None, place)
    return store.record(key(subject, settings, seed)), [epoch for epoch, _ in told]


def seen():
    return json.loads(Path("seen").read_text())


# --- arguments


def test_each_value_becomes_a_single_argument_whatever_it_holds():
    command = script(ECHO) + " --a={a} {b.c} '{d} and {d}' {{x}} {flags} {none} {empty}"
    odd = "two words; $(touch canary) `touch canary` '\" && touch canary | > canary\n{seed}"
    settings = {"a": odd, "b.c": 1e-5, "d": True, "flags": ["--x", "y z"], "none": [], "empty": ""}
    ran(subject_of(command + " {seed}"), settings, seed=7)
    arguments, _ = seen()
    assert arguments == [
        f"--a={odd}", "1e-05", "True and True", "{x}", "--x", "y z", "", "7",
    ]  # fmt: skip
    assert not Path("canary").exists()


def test_folder_trial_and_settings_are_given_and_what_was_left_in_the_folder_is_gone():
    Path("work").mkdir()
    Path("work/left").write_text("of a trial that was broken off")
    text = "import os, sys; print('files=%d' % len(os.listdir(sys.argv[1]))); open(sys.argv[1] + '/new', 'w'); "
    command = script(text + ECHO) + " {folder} {trial} {settings} {seed}"
    record, _ = ran(subject_of(command), {"optim.lr": 0.1, "optim.name": "sgd", "deep": [1]})
    folder, trial, settings, _ = seen()[0]
    assert record["metrics"] == {"files": 0.0, "acc": 1.0}
    assert (Path(folder), trial) == (Path("work").resolve(), "a--s0")
    assert json.loads(Path(settings).read_text()) == {
        "optim": {"lr": 0.1, "name": "sgd"},
        "deep": [1],
    }


def test_variables_are_given_and_a_workers_own_are_not(monkeypatch):
    from ablation import INSTALLED_IN

    monkeypatch.setenv("PYTHONPATH", f"{INSTALLED_IN}{os.pathsep}mine")
    monkeypatch.setenv("MLFLOW_RUN_ID", "of another run")
    command = script(ECHO) + " {seed}"
    ran(subject_of(command, env={"RATE": "{lr}x", "PLAIN": "1"}), {"lr": 0.1})
    found = seen()[1]
    assert (found["RATE"], found["PLAIN"], found["PYTHONPATH"]) == ("0.1x", "1", "mine")
    assert found["MLFLOW_RUN_ID"] == "of another run"
    ran(subject_of(command, metrics="mlflow"))
    assert "MLFLOW_RUN_ID" not in seen()[1]
    assert seen()[1]["MLFLOW_TRACKING_URI"] == Path("work/mlruns").resolve().as_uri()


# --- what is wrong, before anything runs

FAULTS = {
    "train {seed": "a placeholder is {key}",
    "train {lr:.3f} {seed}": "cannot read '{lr:.3f}': a placeholder is {key}",
    "train {} {seed}": "a placeholder is {key}",
    """train --json '{"a": 1}' {seed}""": "braces that are meant are written {{ and }}",
    "train 'a {seed}": "No closing quotation",
    "   ": "is not a command line, such as python train.py",
    "A=1 train {seed}": "begins with 'A=1'; variables of the environment stand under `env:`",
    "cd a && train {seed} > log": ("has '&&', and no shell runs it", "has '>', and no shell"),
    "train --lr 1": "does not mention {seed}, so that all seeds would do the same",
}


@pytest.mark.parametrize(("command", "said"), FAULTS.items())
def test_a_command_that_cannot_be_meant_is_refused_with_the_reason(command, said):
    Path("e.yaml").write_text(json.dumps({"subject": {"command": command}}))
    problems = []
    assert read_experiment(Path("e.yaml"), problems).subject == ""
    assert {problem.key for problem in problems} == {"subject.command"}
    told = "\n".join(map(str, problems))
    assert all(each in told for each in ([said] if isinstance(said, str) else said))


def test_unknown_keys_sources_and_variables_are_refused_together():
    subject = {"comand": "x", "metrics": "stdot", "env": {"A B": 1, "C": [1], "D": "{"}}
    Path("e.yaml").write_text(json.dumps({"subject": subject}))
    problems = []
    read_experiment(Path("e.yaml"), problems)
    assert {problem.key for problem in problems} == {
        "subject.comand", "subject.command", "subject.metrics", "subject.env.A B", "subject.env.C", "subject.env.D",
    }  # fmt: skip


def test_metrics_from_a_file_need_the_folder():
    (fault,) = Command("train {seed}", metrics="csv").faults()
    assert fault.startswith("does not mention {folder}")
    assert not list(Command("train {seed} {folder}", metrics="csv").faults())
    assert not list(Command("train", env={"SEED": "{seed}"}).faults())


def test_settings_and_placeholders_that_do_not_meet_are_faults_with_the_nearest():
    subject = subject_of(script(ECHO) + " {optim.lr} {seed}")
    assert subject.check({"optim.lr": 1}) == []
    faults = {fault.key: fault.message for fault in subject.check({"optim.rl": 1, "seed": 2})}
    assert faults["optim.lr"].endswith("no such setting: did you mean 'optim.rl'?")
    assert "the command does not mention it" in faults["optim.rl"]
    assert "did you mean 'optim.lr'?" in faults["optim.rl"]
    assert "rename the setting" in faults["seed"]
    assert [fault.key for fault in subject.check({"optim.lr": "a\0"})] == ["optim.lr"]
    # of a flag; the value of an option may be empty, and so may a part of an argument
    assert [fault.key for fault in subject.check({"optim.lr": ""})] == ["optim.lr"]
    for own in ("--lr {optim.lr}", "--lr={optim.lr}"):
        assert subject_of(f"{script(ECHO)} {own} {{seed}}").check({"optim.lr": ""}) == []
    assert subject.check({"optim.lr": []}) == []
    assert subject_of(script(ECHO) + " {settings}").check({"anything": 1}) == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-program {seed}", "there is no program 'no-such-program': none of that name"),
        ("./train.sh {seed}", "there is no program './train.sh': it cannot be executed"),
        (f"{PYTHON} -u trian.py {{seed}}", "there is no file 'trian.py' in "),
        (f"{PYTHON} src/trian.py {{seed}}", "there is no file 'src/trian.py' in "),
        (
            f"{PYTHON} exercises/long/train.py {{seed}}",
            "there is no file 'exercises/long/train.py'",
        ),
    ],
)
def test_a_program_or_script_that_is_not_there_is_named(command, said):
    script(ECHO)
    with pytest.raises(InputError) as error:
        load_subject(Command(command).name)
    assert said in str(error.value)
    if ".py" in command:
        assert "did you mean 'train.py'?" in str(error.value)


# --- its key


def test_its_key_follows_command_used_settings_seed_script_and_imported_modules():
    Path("package").mkdir()
    Path("package/__init__.py").write_text("")
    Path("package/helper.py").write_text("a = 1\n")
    Path("config.json").write_text("{}")
    command = script("from package import helper\n") + " --config config.json {lr} {seed}"
    settings = {"lr": 1}
    known = {key(subject_of(command), settings)}
    assert key(subject_of(command), {"lr": 1}) in known

    def is_new(changed):
        is_other = changed not in known
        known.add(changed)
        return is_other

    assert is_new(key(subject_of(command), {"lr": 2}))
    assert is_new(key(subject_of(command), settings, seed=1))
    assert is_new(key(subject_of(command + " --more"), settings))
    assert is_new(key(subject_of(command, env={"A": "1"}), settings))
    for name, text in {"train.py": "import package.helper\n", "package/helper.py": "a = 2\n", "config.json": "{ }"}.items():  # fmt: skip
        Path(name).write_text(text)
        assert is_new(key(subject_of(command), settings)), name
    Path("other.py").write_text("a = 1\n")
    assert not is_new(key(subject_of(command), settings))
    # a setting that it does not use
    assert key(subject_of(command), {"lr": 1, "unused": 1}) in known


SAME = {
    "a comment": ("a = 1  # why\n# more\n", True),
    "layout": ("a = (\n    1\n)\n", True),
    "a docstring, which argparse may read": ('"""Usage."""\na = 1\n', False),
    "code": ("a = 2\n", False),
}


@pytest.mark.parametrize("text, is_same", SAME.values(), ids=SAME)
def test_comments_and_layout_of_scripts_and_modules_do_not_count(text, is_same):
    Path("helper.py").write_text("a = 1\n")
    command = script("import helper\n") + " {seed}"
    before = key(subject_of(command))
    Path("helper.py").write_text(text)
    assert (key(subject_of(command)) == before) is is_same
    for name, old in {"train.py": "import helper\n", "helper.py": text}.items():
        Path(name).write_text(old + "# a comment\n")
    assert (key(subject_of(command)) == before) is is_same


ODD = {
    "a syntax error": b"a = (\n",
    "not UTF-8": b"a = '\xff'\n",
    "a NUL": b"a = 1\0\n",
    "deep nesting": b"a = " + b"-" * 200 + b"1\n",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_every_byte_of_what_python_cannot_read_counts(text):
    command = script("") + " {seed}"
    Path("train.py").write_bytes(text)
    before = key(subject_of(command))
    Path("train.py").write_bytes(text + b"# a comment\n")
    assert key(subject_of(command)) != before


def test_a_module_that_is_run_by_its_name_counts_too():
    Path("pack").mkdir()
    Path("pack/__main__.py").write_text("from .inner import a\n")
    Path("pack/inner.py").write_text("a = 1\n")
    before = key(subject_of(f"{PYTHON} -m pack {{seed}}"))
    Path("pack/inner.py").write_text("a = 2\n")
    assert key(subject_of(f"{PYTHON} -m pack {{seed}}")) != before


# --- its metrics


def test_printed_epochs_are_told_as_they_come_and_are_the_history():
    text = "import time\nfor e in (1, 2):\n    print(f'epoch={e} loss={1/e}')\n    time.sleep(0.4)\nprint('acc=5', end='')\n"
    times = []
    place = Place("a", Path("work").resolve(), on_epoch=lambda *_: times.append(time.monotonic()))
    record, _ = ran(subject_of(script(text) + " {seed}"), place=place)
    assert record["metrics"] == {"loss": 0.5, "acc": 5.0}
    assert record["history"] == [{"epoch": 1, "metrics": {"loss": 1.0}}, {"epoch": 2, "metrics": {"loss": 0.5}}]  # fmt: skip
    assert record["epoch"] == 2 and len(times) == 2 and times[1] - times[0] > 0.2


WRITES = """
import json, sys
folder = sys.argv[1]
print("epoch=1 acc=1 printed=1")
with open(folder + "/metrics.csv", "w") as file:
    file.write("epoch,acc,csv\\n1,2,1\\n")
with open(folder + "/metrics.jsonl", "w") as file:
    file.write(json.dumps({"epoch": 1, "acc": 3, "jsonl": 1}) + "\\n")
"""


@pytest.mark.parametrize(
    ("source", "metrics"),
    [
        ("", {"acc": 3, "printed": 1, "csv": 1, "jsonl": 1}),
        ("stdout", {"acc": 1, "printed": 1}),
        ("csv", {"acc": 2, "csv": 1}),
        ("jsonl", {"acc": 3, "jsonl": 1}),
    ],
)
def test_metrics_are_read_from_where_they_are_chosen_and_a_file_wins(source, metrics):
    record, _ = ran(subject_of(script(WRITES) + " {folder} {seed}", metrics=source))
    assert record["metrics"] == metrics


STREAMS = """
import logging, sys
logging.basicConfig(level=logging.INFO)
print("epoch=1 acc=1 Acc@1 2")
logging.info("epoch=2 acc=3")
sys.stderr.write("50%|##  | 1/2 [00:01<00:01, loss=0.3]\\r")
"""


@pytest.mark.parametrize(
    ("source", "pattern", "metrics"),
    [
        ("", [], {"acc": 1}),
        ("stderr", [], {"acc": 3, "loss": 0.3}),
        ("", [r"Acc@1 (?P<acc>\S+)"], {"acc": 2}),
        ("stderr", [r"acc=(?P<top1>\S+)", r"\| (?P<step>\d+)/"], {"acc": 3, "loss": 0.3, "top1": 3, "step": 1}),
    ],
)  # fmt: skip
def test_the_chosen_stream_is_read_by_the_patterns_too(source, pattern, metrics):
    subject = subject_of(script(STREAMS) + " {seed}", metrics=source, pattern=pattern)
    record, told = ran(subject)
    assert record["metrics"] == metrics and len(told) == 1
    assert subject.reader == READER


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"pattern": "acc ("}, "'acc (' is no regular expression: missing ), unterminated subpattern"),
        ({"pattern": [r"acc (\d+)"]}, "names no metric; a group names one, as in 'Acc@1 (?P<acc>[\\d.]+)'"),
        ({"pattern": r"(?P<epoch>\d+)"}, "names no metric"),
        ({"pattern": "(?P<test/acc>.)"}, "bad character in group name 'test/acc'"),
        ({"pattern": 5}, "5 is not text, or a list of texts"),
        ({"pattern": "(?P<acc>.)", "metrics": "mlflow"}, "metrics: mlflow reads none of it"),
    ],
)  # fmt: skip
def test_a_pattern_by_which_nothing_can_be_read_is_refused(more, said):
    Path("e.yaml").write_text(json.dumps({"subject": {"command": "train {seed}", **more}}))
    problems = []
    assert read_experiment(Path("e.yaml"), problems).subject == ""
    (problem,) = problems
    assert problem.key == "subject.pattern" and said in problem.message


def test_a_pattern_is_part_of_the_key_and_none_changes_no_key():
    command = script(ECHO) + " {seed}"
    for pattern in ("(?P<acc>.)", ["(?P<acc>.)"]):
        Path("e.yaml").write_text(json.dumps({"subject": {"command": command, "pattern": pattern}}))
        name = read_experiment(Path("e.yaml"), []).subject
        assert Command.of(name).pattern == ["(?P<acc>.)"]
        assert key(load_subject(name)) != key(subject_of(command))
    assert json.loads(Command(command).name) == {"command": command}


def test_a_damaged_file_of_metrics_fails_the_trial():
    text = "import sys; open(sys.argv[1] + '/metrics.jsonl', 'w').write('{\\n')"
    with pytest.raises(ValueError, match="metrics.jsonl, line 1 is no JSON object"):
        ran(subject_of(script(text) + " {folder} {seed}"))


def test_files_are_told_while_they_grow(monkeypatch):
    monkeypatch.setattr("ablation.subject.spawned.FILE_SECONDS", 0.05)
    text = """
import sys, time
with open(sys.argv[1] + "/metrics.csv", "w") as file:
    for line in ("epoch,acc", "1,2", "2,3"):
        file.write(line + "\\n"), file.flush(), time.sleep(0.3)
    file.write("3,4"), file.flush(), time.sleep(0.3)
"""
    record, told = ran(subject_of(script(text) + " {folder} {seed}"))
    assert told == [{"epoch": 1, "metrics": {"acc": 2}}, {"epoch": 2, "metrics": {"acc": 3}}]
    assert record["history"][-1] == {"epoch": 3, "metrics": {"acc": 4}}


@pytest.mark.parametrize("is_printed_first", [True, False])
def test_an_epoch_is_told_with_what_files_have_of_it_before_a_later_one_is(is_printed_first):
    """Else it would depend on when the files are looked at which epochs a pruner sees."""
    text = """
import sys
file = open(sys.argv[1] + "/metrics.csv", "w")
file.write("epoch,acc\\n")
for epoch in range(1, 6):
    steps = [lambda: print(f"epoch={epoch} loss={1 / epoch}", flush=True),
             lambda: (file.write(f"{epoch},{epoch / 10}\\n"), file.flush())]
    for step in steps if ORDER else reversed(steps):
        step()
"""
    _, told = ran(
        subject_of(script(text.replace("ORDER", str(is_printed_first))) + " {folder} {seed}")
    )
    last_known = {}
    for one in told:
        if one["epoch"] >= max(last_known, default=0):
            last_known[one["epoch"]] = one["metrics"]
    assert {e: last_known[e] for e in range(1, 5)} == {
        e: {"acc": e / 10, "loss": 1 / e} for e in range(1, 5)
    }


def test_a_run_of_its_own_in_mlflow_is_read():
    text = "import mlflow\nwith mlflow.start_run():\n    for e in (1, 2):\n        mlflow.log_metric('test/acc', e / 4, step=e)\n"
    record, _ = ran(subject_of(script(text) + " {seed}", metrics="mlflow"))
    assert [entry["metrics"] for entry in record["history"]] == [{"test/acc": 0.25}, {"test/acc": 0.5}]  # fmt: skip


# --- its end


def test_another_exit_code_fails_the_trial_with_the_last_lines_of_standard_error():
    text = "import sys\nprint('epoch=1 acc=1')\nprint('one', file=sys.stderr)\nsys.exit('no data in nowhere')\n"
    with pytest.raises(CommandFailed) as error:
        ran(
            subject_of(script(text) + " {seed}"),
            place=Place("a--s0", Path("work").resolve(), "runs/g/a--s0/stdout.log"),
        )
    assert str(error.value) == "exit code 1: no data in nowhere; see runs/g/a--s0/stdout.log"
    assert error.value.details == "one\nno data in nowhere"
    with pytest.raises(CommandFailed, match=r"killed by signal 11 \(Segmentation fault\)"):
        ran(subject_of(script("import os; os.kill(os.getpid(), 11)") + " {seed}"))


SLEEPERS = """
import subprocess, sys, time
child = [sys.executable, "-c", "import time; time.sleep(600)"]
subprocess.Popen(child)
open("started", "w").write("1")
"""


def test_what_it_leaves_behind_is_killed_though_it_holds_the_pipes():
    record, _ = ran(subject_of(script(SLEEPERS + "print('acc=1')\n") + " {seed}"))
    assert record["metrics"] == {"acc": 1.0}
    assert processes_left() == []


@pytest.mark.parametrize(
    "more", ["", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"]
)
def test_a_request_to_stop_ends_it_with_its_whole_group(more, monkeypatch):
    monkeypatch.setattr("ablation.subject.spawned.END_SECONDS", 0.3)
    subject = subject_of(script(more + SLEEPERS + "time.sleep(600)\n") + " {seed}")

    def stop():
        while not Path("started").exists():
            time.sleep(0.01)
        interruption.request()

    threading.Thread(target=stop).start()
    try:
        with pytest.raises(interruption.Interrupted):
            ran(subject)
    finally:
        interruption.forget()
    assert processes_left() == []


def test_a_finished_command_is_not_run_again():
    subject = subject_of(script("print('acc=1'); open('calls', 'a').write('x')") + " {seed}")
    store = MemoryStore()
    for _ in range(2):
        place = Place("a", Path("work").resolve())
        subject.advance({}, 0, None, store, lambda key, record: None, place)
    assert Path("calls").read_text() == "x"


def test_signals_are_the_systems_own_in_it():
    text = "import signal; print('mine=%d' % (signal.getsignal(signal.SIGTERM) == signal.SIG_DFL))"
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        assert ran(subject_of(script(text) + " {seed}"))[0]["metrics"] == {"mine": 1.0}
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_keys_hold_the_version_of_the_reader_where_output_is_read(monkeypatch):
    command = script(ECHO) + " {seed} {folder}"
    sources = ("", "stdout", "jsonl", "csv", "mlflow")
    before = [key(subject_of(command, metrics=source)) for source in sources]
    assert subject_of(command).describe({})["output_reader"] == READER
    assert "output_reader" not in subject_of(command, metrics="csv").describe({})
    monkeypatch.setattr("ablation.subject.command.READER", READER + 1)
    after = [key(subject_of(command, metrics=source)) for source in sources]
    assert [one != other for one, other in zip(before, after, strict=True)] == [True] * 2 + [
        False
    ] * 3


FLAGS = """
study: flags
experiment: e
metric: {name: acc, goal: maximize}
seeds: 2
factors:
  augment: {off: {flag: OFF}, on: {flag: ON}}
"""


@pytest.mark.parametrize(
    ("arguments", "off", "on", "is_refused"),
    [
        ("--verbose {flag}", '""', "--augment", True),
        ("--verbose {flag}", '""', "-a", True),
        # the value of an option, also one that begins with a sign
        ("--tag {flag}", '""', "new", False),
        ("--shift {flag}", '""', "'-1'", False),
        ("--tag={flag}", '""', "--augment", False),
        ("--verbose {flag}", "[]", "[--augment]", False),
    ],
)
def test_an_empty_text_beside_a_flag_after_an_option_is_refused_with_the_lists_to_write(
    arguments, off, on, is_refused
):
    command = f"{script(ECHO)} {arguments} {{seed}}"
    Path("e.yaml").write_text(f"title: E\nsubject: {{command: {json.dumps(command)}}}\n")
    Path("g.yaml").write_text(FLAGS.replace("OFF", off).replace("ON", on))
    problems = []
    try:
        load_study("g.yaml", None, [], None, load_subject)
    except InputError as error:
        problems = [str(problem) for problem in error.problems]
    told = (
        "g.yaml: factors.augment.off.flag: {flag} would be an empty argument, and not none; "
        f"write the on/off flag as the lists [] and [{on}] (['']: if it is meant)"
    )
    assert problems == [told] * is_refused
