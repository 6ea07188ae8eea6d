"""What training code starts ends as it would outside of a worker, and never outlives the worker."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from own_training import hear, processes_here, processes_left, send, trained, wait_for, write_module

from ablation import INSTALLED_IN
from ablation.execution.workers import Workers

pytestmark = pytest.mark.long

AS_OUTSIDE = {
    "a pool, forked": """
        with multiprocessing.get_context("fork").Pool(2) as pool:
            total = sum(pool.map(double, range(4)))
    """,
    "a pool, spawned": """
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            total = sum(pool.map(double, range(4)))
    """,
    "a pool, of a fork server": """
        with multiprocessing.get_context("forkserver").Pool(1) as pool:
            total = sum(pool.map(double, range(4)))
    """,
    "pools one after another": """
        for _ in range(30):
            with multiprocessing.get_context("fork").Pool(2):
                pass
        total = 12
    """,
    "an executor": """
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            total = sum(pool.map(double, range(4)))
    """,
    "a process that is terminated": """
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        process.start()
        process.terminate()
        process.join()
        total = 12 if process.exitcode == -signal.SIGTERM else process.exitcode
    """,
    "a process that is interrupted": """
        ready = multiprocessing.Event()
        process = multiprocessing.get_context("fork").Process(target=interrupted, args=(ready,))
        process.start()
        ready.wait()
        os.kill(process.pid, signal.SIGINT)
        process.join()
        total = 12 if process.exitcode == 5 else process.exitcode
    """,
    "a process that is hung up": """
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        os.kill(pid, signal.SIGHUP)
        total = 12 if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGHUP else 0
    """,
    "a process started by a thread": """
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        thread = threading.Thread(target=process.start)
        thread.start()
        thread.join()
        process.terminate()
        process.join()
        total = 12
    """,
    "a program that is interrupted": """
        program = subprocess.Popen([sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"], stdout=subprocess.PIPE)
        program.stdout.readline()
        program.send_signal(signal.SIGINT)
        total = 12 if program.wait() == -signal.SIGINT else 0
    """,
    "programs that are ended": """
        program = subprocess.Popen(["sleep", "600"])
        program.terminate()
        other = subprocess.Popen(["sleep", "600"])
        other.send_signal(signal.SIGHUP)
        total = 12 if (program.wait(), other.wait()) == (-signal.SIGTERM, -signal.SIGHUP) else 0
    """,
    "a forked process that leaves by an exception": """
        pid = os.fork()
        if pid == 0:
            sys.exit(5)
        total = 12 if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5 else 0
    """,
    "a forked process that fails": """
        pid = os.fork()
        if pid == 0:
            raise ArithmeticError("planted")
        total = 12 if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1 else 0
    """,
    "a forked process that returns": """
        pid = os.fork()
        if pid == 0:
            return {"top1": 0}
        total = 12 if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 else 0
    """,
    "a handler of its own": """
        heard = []
        signal.signal(signal.SIGUSR1, lambda *_: heard.append(12))
        os.kill(os.getpid(), signal.SIGUSR1)
        (total,) = heard
    """,
}

MODULE = """
import concurrent.futures, multiprocessing, os, signal, subprocess, sys, threading, time

def double(x):
    return 2 * x

def interrupted(ready):
    try:
        ready.set()
        time.sleep(600)
    except KeyboardInterrupt:
        os._exit(5)

def train(config, seed, report):
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("body", AS_OUTSIDE.values(), ids=AS_OUTSIDE)
def test_what_training_code_starts_ends_as_it_would_outside(body):
    body = textwrap.dedent(body) + "\nreturn {'top1': total}\n"
    write_module(MODULE + textwrap.indent(body, "    "))
    told = trained()
    assert [message.event for message in told] == ["record", "done"], told
    assert told[0].record["metrics"] == {"top1": 12.0}


def test_so_do_the_workers_of_a_data_loader():
    write_module(
        "import torch\n"
        "def train(config, seed, report):\n"
        "    loader = torch.utils.data.DataLoader(torch.arange(8.0), num_workers=2)\n"
        "    first = next(iter(loader))\n"  # its workers are ended while they have work
        "    return {'top1': sum(loader)}\n"
    )
    assert [message.event for message in trained()] == ["record", "done"]
    assert processes_left() == []


LEFT = {
    "a process": "multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,)).start()",
    "a spawned process": "multiprocessing.get_context('spawn').Process(target=time.sleep, args=(600,)).start()",
    "a program": "subprocess.Popen(['sleep', '600'])",
    "a program in a session of its own": "subprocess.Popen(['sleep', '600'], start_new_session=True)",
    "what a shell puts in the background": "os.system('setsid sleep 600 &')",
    "a process that takes no SIGTERM": "subprocess.Popen(['sh', '-c', 'trap \"\" TERM HUP INT; sleep 600'])",
    "a daemon": "os.fork() or (os.setsid(), os.fork() and os._exit(0), time.sleep(600))",
}
LEAVING = """
import multiprocessing, os, subprocess, time
from pathlib import Path

def train(config, seed, report):
    {left}
    Path("begun").write_text("1")
    {then}
    return {{"top1": 1}}
"""


def await_end_of_all() -> None:
    while processes_here() != [os.getpid()]:
        time.sleep(0.01)


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_nothing_that_training_code_has_left_outlives_its_worker(left, monkeypatch):
    monkeypatch.setattr(
        "ablation.execution.process.END_SECONDS", 0.2
    )  # some of it keeps the worker
    write_module(LEAVING.format(left=left, then="pass"))
    assert trained()[-1].event == "done"
    assert processes_left() == []


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_nor_one_that_was_killed(left):
    write_module(LEAVING.format(left=left, then="time.sleep(600)"))
    with Workers(1) as workers:
        worker = workers.idle()
        send(worker)
        wait_for("begun")
        os.kill(worker.process.pid, signal.SIGKILL)
        assert hear(workers, worker)[-1].event == "lost"
    assert processes_left() == []


STUDY = "from own_training import trained; trained()"


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_nor_that_of_a_study_that_was_killed(left):
    write_module(LEAVING.format(left=left, then="time.sleep(600)"))
    path = os.pathsep.join([str(INSTALLED_IN), os.path.dirname(os.path.dirname(__file__))])
    command = [sys.executable, "-c", STUDY]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, start_new_session=True
    ) as study:
        wait_for("begun")
        study.kill()
    await_end_of_all()


OWN_HANDLERS = {
    "ends the process": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))",
    "ends it by an exception": "signal.signal(signal.SIGTERM, signal.default_int_handler)",
    "ends the loop": "signal.signal(signal.SIGTERM, lambda *_: ended.append(1))",
    "ends the loop, by asyncio": "asyncio.new_event_loop().add_signal_handler(signal.SIGTERM, ended.append, 1)",
    "is to ignore it": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "calls the one before": "before = signal.signal(signal.SIGTERM, lambda *_: before(*_))",
    "is put back": "signal.signal(signal.SIGTERM, signal.signal(signal.SIGTERM, lambda *_: ended.append(1)))",
}


@pytest.mark.parametrize("body", OWN_HANDLERS.values(), ids=OWN_HANDLERS)
def test_a_request_to_stop_is_heard_whatever_training_code_does_with_the_signal(body):
    write_module(
        "import asyncio, signal, sys, time\nfrom pathlib import Path\n"
        "def train(config, seed, report):\n"
        "    ended = []\n"
        f"    {body}\n"
        "    Path('begun').write_text('1')\n"
        "    while not ended:\n"
        "        time.sleep(0.01)\n"
        "        report(1, {})\n"
        "        if ended: break\n"
        "    return {'top1': 0}\n"
    )
    with Workers(1) as workers:
        worker = workers.idle()
        send(worker)
        wait_for("begun")
        worker.stop()
        assert [message.event for message in hear(workers, worker)] == ["stopped"]


def test_the_next_trial_of_a_worker_finds_signals_as_the_first_did():
    write_module(
        "import signal, time\n"
        "def train(config, seed, report):\n"
        "    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}\n"
        "    as_at_first = all(handler.__module__.startswith(('ablation', '__main__')) for handler in handlers.values())\n"
        "    if config['does'] == 'changes':\n"
        "        for number in handlers: signal.signal(number, signal.SIG_DFL)\n"
        "        signal.alarm(1)\n"
        "    return {'top1': as_at_first, 'left': signal.alarm(0) if config['does'] == 'looks' else 0}\n"
    )
    with Workers(1) as workers:
        worker = workers.idle()
        for does in ("changes", "looks"):
            send(worker, does)
            assert hear(workers, worker)[0].record["metrics"] == {"top1": 1.0, "left": 0.0}


@pytest.mark.parametrize(
    "does",
    [
        "sys.stdout.close()",
        "sys.stderr.close()",
        "sys.stdout = sys.stderr = None",
        "sys.stdout = io.StringIO()",
    ],
)
@pytest.mark.parametrize("ends", ["return {'top1': 1}", "raise KeyError('lost')"])
def test_the_standard_streams_of_a_worker_outlast_what_a_trial_does_to_them(does, ends):
    write_module(
        "import io, sys\n"
        "def train(config, seed, report):\n"
        "    if config['does'] == 'looks':\n"
        "        print('heard', file=sys.stderr)\n"
        "        return {'top1': 2}\n"
        f"    {does}\n"
        f"    {ends}\n"
    )
    with Workers(1) as workers:
        worker = workers.idle()
        send(worker, "changes")
        *_, last = hear(workers, worker)
        if last.event == "failed":
            assert (last.error["type"], last.error["message"]) == ("KeyError", "'lost'")
        else:
            send(worker, "looks")
            assert hear(workers, worker)[0].record["metrics"] == {"top1": 2.0}
