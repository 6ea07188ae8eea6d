"""Training code that ends its process, or reads the command line: told by what was called and why, and nothing else ends."""

import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from own_training import trained, write_module

from ablation import INSTALLED_IN
from ablation.cli.main import main
from ablation.errors import InputError
from ablation.study import opening
from ablation.subject.loading import load_subject

pytestmark = pytest.mark.long

PARSER = "parser = argparse.ArgumentParser(); parser.add_argument({arguments}); parser.parse_args({given})"
COMMAND = "click.command()(click.option('--lr', type=float{more})(lambda lr: None))({given})"
# what ends the process -> what is said of it
ENDINGS = {
    "sys.exit()": "`sys.exit()` in {file}, line {line} would have ended the process with exit code 0",
    "sys.exit(3)": "`sys.exit(3)` in {file}, line {line} would have ended the process with exit code 3",
    "sys.exit('no data')": "would have ended the process with exit code 1: no data",
    "quit()": "`quit()` in {file}, line {line} would have ended the process with exit code 0",
    "exit(2)": "`exit(2)` in {file}, line {line} would have ended the process with exit code 2",
    "raise SystemExit(4)": "SystemExit: `raise SystemExit(4)` in {file}, line {line} would have ended the process with exit code 4",
    "raise KeyboardInterrupt": "KeyboardInterrupt: `raise KeyboardInterrupt` in {file}, line {line} would have ended the process",
    "raise asyncio.CancelledError('late')": "CancelledError: `raise asyncio.CancelledError('late')` in {file}, line {line} would have ended the process: late",
    PARSER.format(
        arguments="'--data', required=True", given=""
    ): "with exit code 2: the following arguments are required: --data",
    PARSER.format(
        arguments="'--lr', type=float", given="['--lr', 'x']"
    ): "with exit code 2: argument --lr: invalid float value: 'x'",
    PARSER.format(
        arguments="'folder'", given=""
    ): "with exit code 2: the following arguments are required: folder",
    COMMAND.format(more=", required=True", given=""): "with exit code 2: Missing option '--lr'.",
    COMMAND.format(more="", given="['--rate', '1']"): "with exit code 2: No such option",
    COMMAND.format(more="", given=""): "with exit code 0",
    "os._exit(0)": "`os._exit(0)` in {file}, line {line}",
    "os._exit(3)": "`os._exit(3)` in {file}, line {line}",
    "os._exit(status=3)": "`os._exit(status=3)` in {file}, line {line}",
}
IMPORTS = "import argparse, asyncio, os, sys, threading, click\n"
AT_IMPORT = IMPORTS + "{does}\ndef train(config, seed, report):\n    return {{'top1': 1}}\n"
IN_TRIAL = (
    IMPORTS
    + "def ended():\n    {does}\ndef train(config, seed, report):\n    report(1, {{'top1': 1}})\n    ended()\n    return {{'top1': 1}}\n"
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def name(tmp_path):
    """Of a module that no other test has imported."""
    return f"ends_{tmp_path.name.replace('-', '_')}"


@pytest.mark.parametrize(
    ("does", "said"),
    # at its import this is as Ctrl-C
    [ending for ending in ENDINGS.items() if ending[0] != "raise KeyboardInterrupt"],
)
def test_a_module_that_ends_the_process_at_its_import_is_an_error_that_says_how(name, does, said):
    write_module(AT_IMPORT.format(does=does), name)
    with pytest.raises(InputError) as error:
        load_subject(f"{name}:train")
    (problem,) = error.value.problems
    assert problem.message.startswith(f"cannot import '{name}': ")
    assert said.format(file=f"{name}.py", line=2) in problem.message


@pytest.mark.parametrize(("does", "said"), ENDINGS.items())
def test_a_trial_that_ends_the_process_fails_and_says_how(name, does, said):
    write_module(IN_TRIAL.format(does=does), name)
    told = trained(subject=f"{name}:train")
    assert told[-1].event == "failed"
    error = told[-1].error
    assert said.format(file=f"{name}.py", line=3) in f"{error['type']}: {error['message']}"
    assert f"{name}.py" in error["traceback"]


def test_a_trial_whose_process_a_thread_ends_fails_and_says_how(name):
    write_module(
        IMPORTS
        + "def train(*_):\n    threading.Thread(target=lambda: os._exit(5)).start()\n    threading.Event().wait()\n",
        name,
    )
    error = trained(subject=f"{name}:train")[-1].error
    assert (
        error["type"] == "WorkerDied"
        and f"exit code 5, by `threading.Thread(target=lambda: os._exit(5)).start()` in {name}.py"
        in error["message"]
    )


def test_an_exit_in_a_library_is_told_by_the_line_that_called_it(name):
    write_module(
        IN_TRIAL.format(does="import unittest; unittest.main(module=None, argv=['x', '-h'])"), name
    )
    error = trained(subject=f"{name}:train")[-1].error
    assert error["message"].startswith("`import unittest; unittest.main(")


def test_code_that_exits_while_it_handles_an_error_is_told_with_the_error(name):
    does = "\n    try: open('no such file')\n    except OSError: sys.exit(1)"
    write_module(IN_TRIAL.format(does=does), name)
    message = trained(subject=f"{name}:train")[-1].error["message"]
    assert message.endswith(
        "exit code 1: FileNotFoundError: [Errno 2] No such file or directory: 'no such file'"
    )


SEEN = "import json, sys\nargv = list(sys.argv)\ndef train(config, seed, report):\n    return {'top1': 2 - len(sys.argv), 'at_import': 2 - len(argv)}\n"


def test_the_command_line_is_clean_in_workers(name):
    write_module(SEEN, name)
    assert trained(subject=f"{name}:train")[0].record["metrics"] == {
        "top1": 1.0,
        "at_import": 1.0,
    }


@pytest.mark.parametrize("arguments", [["run", "--grid", "g.yaml"], ["plan"], []])
def test_and_at_import_where_it_is_put_back(name, monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["ablate", *arguments])
    write_module(SEEN, name)
    load_subject(f"{name}:train")
    assert sys.modules[name].argv == [name] and sys.argv == ["ablate", *arguments]


def test_a_module_that_takes_arguments_with_defaults_is_taken(name):
    write_module(
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr', default=1)\nargs = parser.parse_args()\ndef train(config, seed, report):\n    return {'top1': args.lr}\n",
        name,
    )
    assert trained(subject=f"{name}:train")[-1].event == "done"


def test_processes_that_a_module_forks_at_its_import_end_as_outside(name):
    write_module(
        "import os\nif (child := os.fork()) == 0:\n    os._exit(5)\nended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\ndef train(config, seed, report): ...\n",
        name,
    )
    load_subject(f"{name}:train")
    assert sys.modules[name].ended == 5


GRID = "study: g\nexperiment: fn\nmetric: {name: top1, goal: maximize}\nseeds: 1\nfactors: {flag: {off: {flag: false}, on: {flag: true}}}\n"


@pytest.mark.parametrize("does", ["sys.exit(0)", "os._exit(0)", "quit()"])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_command_that_could_not_import_the_module_exits_with_2(name, tmp_path, command, does):
    write_module(AT_IMPORT.format(does=does), name)
    (tmp_path / "g.yaml").write_text(GRID)
    (tmp_path / "fn.yaml").write_text(f"title: A function\nsubject: {name}:train\n")
    done = CliRunner().invoke(main, [command, "--grid", "g.yaml"])
    assert done.exit_code == 2
    assert (
        done.stderr.startswith(f"fn.yaml: subject: cannot import '{name}': ")
        and f"`{does}` in {name}.py, line 2" in done.stderr
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("method", ["check", "resolve", "describe", "chain"])
def test_nor_does_one_exit_with_0_whose_subject_ends_the_process(name, tmp_path, method):
    methods = {
        "check": "return []",
        "resolve": "return {}",
        "describe": "return {}",
        "chain": "return [Link('a' * 32, 'train', 1, 1.0)]",
        "advance": "pass",
    }
    lines = [
        f"    def {one}(self, *_): {'sys.exit(0)' if one == method else does}\n"
        for one, does in methods.items()
    ]
    write_module(
        f"import sys\nfrom ablation.subject.protocol import Link\nclass Subject:\n{''.join(lines)}SUBJECT = Subject()\n",
        name,
    )
    (tmp_path / "g.yaml").write_text(GRID)
    (tmp_path / "fn.yaml").write_text(f"title: A subject\nsubject: {name}:SUBJECT\n")
    done = CliRunner().invoke(main, ["run", "--grid", "g.yaml", "--offline"])
    assert done.exit_code == 2
    assert done.stderr.startswith(
        f"subject: `def {method}(self, *_): sys.exit(0)` in {name}.py, line "
    )


def test_ctrl_c_at_the_import_of_a_module_is_an_interrupt(name):
    write_module("import time\nprint('begun', flush=True)\ntime.sleep(600)\n", name)
    code = f"from ablation.subject.loading import load_subject; load_subject('{name}:train')"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(INSTALLED_IN)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().endswith("KeyboardInterrupt\n")


LOOKING = """
import atexit, os, sys

class Subject:
    check = chain = advance = print

    def inspect(self, settings, store):
        {does}
        return {{}}

SUBJECT = Subject()
"""


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("sys.exit(0)", "exit code 0"),
        ("os._exit(0)", "exit code 0"),
        ("sys.exit('no images')", "no images"),
        ("atexit.register(print, 'bye')", "exit code 0"),
    ],
)
def test_a_subject_that_ends_the_process_in_which_it_looks_at_files_is_told_and_stops_nothing(
    name, monkeypatch, does, said
):
    told = []
    monkeypatch.setattr(opening, "warn_once", told.append)
    write_module(LOOKING.format(does=does), name)
    assert opening._ask({"subject": f"{name}:SUBJECT", "settings": [{}], "cache": "cache"}) == []
    assert len(told) == 1 and said in told[0]


@pytest.mark.parametrize(
    "call",
    [
        "os.execv(sys.executable, [sys.executable])",
        "os.execvp('true', ['true'])",
        "os.execle(sys.executable, 'python', {})",
        "os.execlp('true', 'true')",
        "os.abort()",
    ],
)
def test_a_module_that_executes_another_program_or_aborts_at_its_import_is_refused(
    call, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "executes.py").write_text(f"import os, sys\n{call}\n")
    told = "import sys; from ablation.subject.loading import load_subject\ntry: load_subject('executes:train')\nexcept Exception as error: sys.exit(str(error))"
    done = subprocess.run(
        [sys.executable, "-c", told],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(INSTALLED_IN)},
    )
    assert (
        done.returncode == 1
        and f"`{call}` in executes.py, line 2 would have ended the process" in done.stderr
    )
