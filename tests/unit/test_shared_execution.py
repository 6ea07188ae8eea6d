"""Several hosts run one study: each segment once, every outcome everywhere, whoever falls silent.

Each host is a thread with a cache and a folder of its own, and runs its segments itself.
"""

import json
import threading
import time
from types import SimpleNamespace

import pytest
from sqlalchemy import update
from toy_study import Toy, ToyStudy

from ablation import hosts as hosts_module
from ablation.errors import Stuck
from ablation.execution import Listener
from ablation.forest import Segment, segments
from ablation.hosts import Hosts, Look, worth_giving
from ablation.leases import Leases
from ablation.runs import Outcome
from ablation.shared_database import HOSTS
from ablation.shared_execution import LOST, SharedExecution
from ablation.shared_store import News, SharedStore
from ablation.store import DiskStore
from ablation.subject import Link
from ablation.supervision import Task


class Host:
    """One host of the study `study`, in a folder of its own."""

    def __init__(self, engine, root, subject, name):
        root.mkdir()
        self.toy, self.said = ToyStudy(root, subject), []
        self.store = SharedStore(self.toy.store.root, engine, "study")
        self.leases = Leases(engine, "study", name)
        self.listener, self.error, self.execution = Heard(self.toy.folder), None, None

    def run(self) -> None:
        try:
            self.store.pull()
            plan = self.toy.plan()
            with Hosts(self.store, self.leases, self.said.append) as together:
                together.offer(list(segments({name: trial.links for name, trial in plan.trials.items()}).values()))
                self.execution = SharedExecution(self.toy.study(), plan, self.store, self.toy.folder, self.listener, hosts=together)
                self.plan = self.execution.run(2, self.toy.make_workers)
        except BaseException as error:
            self.error = error

    @property
    def outcomes(self) -> dict[str, tuple]:
        found = {spec.trial: self.toy.folder.outcome(spec.trial) for spec in self.plan.specs}
        return {trial: outcome and (outcome.state, outcome.metrics, outcome.error) for trial, outcome in found.items()}


class Heard(Listener):
    """`records`: (trial, epoch), as they were heard; `written`: the epochs that the trial's file had then."""

    def __init__(self, folder):
        self.folder, self.records, self.written = folder, [], []

    def recorded(self, specs, record):
        self.records += [(spec.trial, record["epoch"]) for spec in specs]
        self.written += [[each["epoch"] for each in self.folder.records(spec.trial)] for spec in specs]


@pytest.fixture
def make(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(hosts_module, "LOOK_SECONDS", 0.1)
    made = []

    def make_host(subject: Toy | None = None) -> Host:
        made.append(Host(engine, tmp_path / f"host{len(made)}", subject or Toy(), f"host{len(made)}"))
        return made[-1]

    return make_host


def together(*hosts: Host) -> None:
    threads = [threading.Thread(target=host.run) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for host in hosts:
        if host.error is not None:
            raise host.error
    assert not any(thread.is_alive() for thread in threads)


class Slow(Toy):
    """Leaves the others time to come in between."""

    def advance(self, settings, seed, until, store, report):
        def slowly(key, record):
            time.sleep(0.01)
            return report(key, record)

        super().advance(settings, seed, until, store, slowly)


@pytest.mark.parametrize("settles_after", [{}, {0: 1, 1: 3}])
def test_every_epoch_is_trained_once_and_every_host_has_all_outcomes(make, tmp_path, monkeypatch, settles_after):
    alone = make(Toy(settles_after))
    plan = alone.toy.run(monkeypatch)
    expected = {spec.trial: alone.toy.folder.outcome(spec.trial).metrics for spec in plan.specs}
    hosts = [make(Slow(settles_after)) for _ in range(3)]
    together(*hosts)
    trained = [key for host in hosts for _, key in host.toy.ran]
    assert len(trained) == len(set(trained)) and set(trained) == {key for _, key in alone.toy.ran}
    for host in hosts:
        assert {trial: metrics for trial, (_, metrics, _) in host.outcomes.items()} == expected
        for spec in plan.specs:
            assert host.toy.folder.records(spec.trial) == alone.toy.folder.records(spec.trial)


def test_a_host_that_comes_late_trains_nothing_and_has_everything(make):
    first, late = make(), make()
    together(first)
    together(late)
    assert late.toy.ran == [] and late.outcomes == first.outcomes and len(late.outcomes) == 8


def test_a_trial_that_fails_on_one_host_has_failed_on_all_and_the_others_go_on(make):
    class Brittle(Slow):
        def advance(self, settings, seed, until, store, report):
            if settings["rate"] == 2 and seed == 1 and until.endswith("2"):
                raise ArithmeticError("planted")
            super().advance(settings, seed, until, store, report)

    hosts = [make(Brittle()) for _ in range(2)]
    together(*hosts)
    assert hosts[0].outcomes == hosts[1].outcomes
    states = {trial: state for trial, (state, _, _) in hosts[0].outcomes.items()}
    assert [trial for trial, state in states.items() if state == "FAILED"] == [trial for trial in states if "fast" in trial and trial.endswith("s1")]
    raised = [host.execution.failed for host in hosts]
    assert raised[0] == raised[1] and set(raised[0].values()) == {"ArithmeticError: planted"}


def test_what_has_failed_on_a_host_that_had_fallen_silent_counts_for_nothing(make, engine):
    """The others have finished everything by the time its worker dies."""

    class Late(Toy):
        def advance(self, settings, seed, until, store, report):
            if heir.execution is None:
                with engine.begin() as connection:
                    connection.execute(update(HOSTS).where(HOSTS.c.host == late.leases.host).values(beat=0.0))
                heir.run()
            raise ArithmeticError("planted")

    late, heir, third = make(Late()), make(), make()
    together(late)
    together(third)
    assert {state for state, *_ in heir.outcomes.values()} == {"COMPLETE"}
    assert late.outcomes == heir.outcomes == third.outcomes and third.toy.ran == [] and late.execution.failed == {}


def test_a_host_that_can_do_nothing_stops_and_leaves_the_trials_to_the_others(make):
    class Broken(Toy):
        def advance(self, settings, seed, until, store, report):
            raise ArithmeticError("no CUDA driver")

    broken, sound, begun = make(Broken()), make(Slow()), threading.Barrier(2)
    for host in (broken, sound):
        make_workers = host.toy.make_workers
        host.toy.make_workers = lambda n, make_workers=make_workers: (begun.wait(30), make_workers(n))[1]
    with pytest.raises(Stuck, match="this host stops, and leaves .* to the others: it has finished no epoch yet, and ArithmeticError: no CUDA driver"):
        together(broken, sound)
    assert sound.error is None and {state for state, *_ in sound.outcomes.values()} == {"COMPLETE"} and len(sound.outcomes) == 8


def test_the_last_host_says_that_trials_fail_on_every_one(make):
    class Broken(Toy):
        def advance(self, settings, seed, until, store, report):
            raise ArithmeticError("no CUDA driver")

    host = make(Broken())
    together(host)
    assert {state for state, *_ in host.outcomes.values()} == {"FAILED"}


def test_what_a_silent_host_had_in_hand_is_taken_over_from_its_newest_checkpoint(make, engine):
    """The lost host has trained two of three epochs of a segment."""
    lost, heir = make(), make()
    plan = lost.toy.plan()
    chain = plan.trials["reference--s0"].links
    lost.leases.take([link.key for link in chain])
    ran = []
    lost.toy.subject.advance({"warmup": 2, "rate": 1}, 0, chain[1].key, DiskStore(lost.store.root), lambda key, record: ran.append(key))
    lost.store.push("record", ran)
    lost.store.push("state", ran)
    thread = threading.Thread(target=heir.run)
    thread.start()
    while heir.execution is None or not heir.execution.elsewhere or len(heir.execution.open) > 6:
        time.sleep(0.01)  # all that is not in the lost host's hands, nor needs it, is being done
    assert not any(key in ran or key in {link.key for link in chain} for _, key in heir.toy.ran)
    with engine.begin() as connection:
        connection.execute(update(HOSTS).where(HOSTS.c.host == lost.leases.host).values(beat=0.0))
    thread.join(timeout=60)
    assert heir.error is None and {state for state, *_ in heir.outcomes.values()} == {"COMPLETE"}
    assert not set(ran) & {key for _, key in heir.toy.ran}


def test_an_interrupted_host_lets_go_at_once(make):
    first, second = make(Slow()), make()
    raising = threading.Event()

    class Impatient(Listener):
        def recorded(self, specs, record):
            if record["epoch"] == 2:
                raising.set()
                raise KeyboardInterrupt

    first.listener = Impatient()
    first.run()
    assert isinstance(first.error, KeyboardInterrupt) and first.leases.others() == [] and second.leases.held_elsewhere() == set()
    together(second)
    assert {state for state, *_ in second.outcomes.values()} == {"COMPLETE"}


def test_records_of_others_are_written_and_heard_as_they_come(make):
    hosts, begun = [make(Slow()) for _ in range(2)], threading.Barrier(2)
    for host in hosts:
        make_workers = host.toy.make_workers
        host.toy.make_workers = lambda n, make_workers=make_workers: (begun.wait(30), make_workers(n))[1]
    together(*hosts)
    assert any(host.execution.n_elsewhere for host in hosts)
    for host, other in zip(hosts, reversed(hosts)):
        assert host.execution.n_elsewhere <= len(other.toy.ran)
        epochs = [(spec.trial, epoch) for spec in host.plan.specs for epoch in range(1, 5)]
        assert sorted(host.listener.records) == sorted(epochs)  # each once, whoever trained it
        assert all(written == list(range(1, epoch + 1)) for (_, epoch), written in zip(host.listener.records, host.listener.written))


def test_a_trial_that_failed_elsewhere_meanwhile_is_not_begun(make):
    first, second = make(), make()
    plan = first.toy.plan()
    spec = plan.specs[0]
    failure = Outcome("FAILED", {}, 1.0, {"type": "Planted", "message": "elsewhere", "traceback": ""}, key=spec.key)
    make_workers = second.toy.make_workers

    def make_workers_late(n):
        first.store.push_failures({spec.key: failure})  # the second host has begun, and has looked
        return make_workers(n)

    second.toy.make_workers = make_workers_late
    together(second)
    assert second.execution.failed == {spec.trial: "Planted: elsewhere"} and second.outcomes[spec.trial] == ("FAILED", {}, failure.error)
    of_others = {link.key for trial in plan.trials.values() if trial.spec is not spec for link in trial.links}
    assert {key for _, key in second.toy.ran} == of_others


def silence(host: Host) -> None:
    """Let the others take over what the host has in hand."""
    with host.store.entries.engine.begin() as connection:
        connection.execute(update(HOSTS).where(HOSTS.c.host == host.leases.host).values(beat=0.0))


class Overtaken(Toy):
    """The host's first segment takes so long that the other host takes it over and completes it; then `end` is called."""

    def __init__(self, end, hosts: list[Host]):
        super().__init__()
        self.end, self.hosts, self.begun = end, hosts, threading.Event()

    def advance(self, settings, seed, until, store, report):
        if not self.begun.is_set():
            silence(self.hosts[0])
            self.begun.set()
            wait_until(lambda: self.hosts[1].store.is_shared("record", until))
            self.end()
        super().advance(settings, seed, until, store, report)


def wait_until(is_so) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def run_overtaken(make, end, subject: Toy) -> list[Host]:
    """Two hosts, of which the second overtakes the first in its first segment."""
    hosts = []
    hosts += [make(Overtaken(end, hosts)), make(subject)]
    threads = [threading.Thread(target=host.run) for host in hosts]
    threads[0].start()
    hosts[0].toy.subject.begun.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join(timeout=60)
    assert [host.error for host in hosts] == [None, None]
    return hosts


class Other(Slow):
    """Computes the same, and comes to other results, as GPUs may."""

    def advance(self, settings, seed, until, store, report):
        class Store(DiskStore):
            def save(self, kind, key, data, seconds=0.0):
                if kind == "record":
                    record = json.loads(data)
                    record["metrics"]["top1"] += 0.5
                    data = json.dumps(record).encode()
                super().save(kind, key, data, seconds)

        super().advance(settings, seed, until, Store(store.root), report)


def test_of_two_results_of_one_key_all_hosts_have_the_one_that_came_first(make):
    """The lost host goes on with what it had in hand, and then hands in another result."""
    hosts = run_overtaken(make, lambda: None, Other())
    fresh = make()
    together(fresh)
    assert hosts[0].outcomes == hosts[1].outcomes == fresh.outcomes
    for spec in hosts[0].plan.specs:
        assert hosts[0].toy.folder.records(spec.trial) == hosts[1].toy.folder.records(spec.trial) == fresh.toy.folder.records(spec.trial)
    assert {metrics["top1"] % 1 for _, metrics, _ in fresh.outcomes.values()} == {0.0, 0.5}  # they did differ


def test_a_trial_that_ended_by_other_records_than_the_shared_ones_ends_again_by_those(make, monkeypatch):
    """Results of an earlier run of its own, that another host brings otherwise while this one is at work."""
    first, second = make(), make()
    plan = first.toy.run(monkeypatch)
    (key,) = {trial.links[-1].key for name, trial in plan.trials.items() if name == "reference--s0"}
    record = first.store.record(key)
    second.store.save("record", key, json.dumps(record | {"metrics": {"top1": -1.0}}).encode())
    make_workers = first.toy.make_workers
    (first.toy.folder.trial_path("reference--s1") / "outcome.json").unlink()
    links = plan.trials["reference--s1"].links
    first.store.path("record", links[-1].key).unlink()  # something is left to do

    def make_workers_late(n):
        second.store.push("record", [key])
        return make_workers(n)

    first.toy.make_workers = make_workers_late
    monkeypatch.setattr(Hosts, "offer", lambda hosts, segments: None)
    together(first)
    assert first.outcomes["reference--s0"][1]["top1"] == -1.0
    assert first.toy.folder.records("reference--s0")[-1]["metrics"] == {"top1": -1.0}


class Broken(Toy):
    def advance(self, settings, seed, until, store, report):
        raise ArithmeticError("libcudnn.so: cannot open shared object file")


def test_a_trial_that_fails_first_on_a_host_that_then_proves_itself_has_failed(make):
    class FirstFails(Toy):
        def advance(self, settings, seed, until, store, report):
            if seed == 0 and settings["warmup"] == 2:
                raise ArithmeticError("planted")
            super().advance(settings, seed, until, store, report)

    host, other = make(FirstFails()), make()
    other.leases.beat()  # there is another host, that does nothing
    together(host)
    assert host.execution.failed and set(host.execution.failed.values()) == {"ArithmeticError: planted"}
    assert set(other.store.pull().failures) == {host.plan.trials[name].spec.key for name in host.execution.failed}


def test_a_trial_that_fails_on_every_host_has_failed_when_the_second_meets_it(make):
    first, second, idle = make(Broken()), make(Broken()), make()
    idle.leases.beat()
    for host in (first, second):
        host.run()
    assert isinstance(first.error, Stuck) and first.store.pull().failures
    idle.leases.leave()


def test_a_host_whose_source_has_changed_stops_and_fails_nothing(make):
    class Changed(Toy):
        def advance(self, settings, seed, until, store, report):
            """Leaves nothing of what was planned."""

    host = make(Changed())
    host.run()
    assert isinstance(host.error, Stuck) and "data or source changed while the study ran" in str(host.error)
    assert host.store.pull().failures == {} and host.leases.held_elsewhere() == set()


@pytest.mark.parametrize("is_known", [False, True])
def test_whole_records_count_more_than_a_failure_on_hosts_old_and_new(make, monkeypatch, is_known):
    """Another host fails a trial of which a third one then brings all records. `is_known`: the failure, before."""
    late = make()
    plan = late.toy.run(monkeypatch)
    spec = plan.trials["reference--s0"].spec
    failure = Outcome("FAILED", {}, 1.0, {"type": "Planted", "message": "elsewhere", "traceback": ""}, key=spec.key)
    late.store.push_failures({spec.key: failure})
    old = make(Slow())
    if is_known:
        old.toy.folder.write_outcome(spec.trial, failure)
    make_workers = old.toy.make_workers

    def make_workers_late(n):
        late.store.push("record", [link.key for link in plan.trials["reference--s0"].links])
        return make_workers(n)

    old.toy.make_workers = make_workers_late
    together(old)
    fresh = make()
    together(fresh)
    assert old.outcomes["reference--s0"][0] == "COMPLETE" and old.outcomes == fresh.outcomes


def test_what_a_host_did_of_a_segment_that_another_has_by_now_is_given_to_nobody_and_forgotten(make):
    lost, heir = make(), make()
    chain = lost.toy.plan().trials["reference--s0"].links
    segment = Segment(chain[-1].key, list(chain), ["reference--s0"], None)
    with Hosts(lost.store, lost.leases, lost.said.append) as hosts:
        assert hosts.take(segment) is not None
        lost.store.save("record", chain[0].key, b"{}")
        wait_until(lambda: hosts.look().held is not None)
        silence(lost)
        assert heir.leases.take([segment.end])
        for kind in ("record", "state"):
            lost.store.save(kind, chain[1].key, b"{}")
        looks = [hosts.look()]
        while looks[-1].held is None or len(looks) < 2:
            looks.append(hosts.look())
        assert [segment for look in looks for segment in look.lost] == [segment]  # so that its worker can be ended
        failure = Outcome("FAILED", {}, 1.0, {"type": "Planted", "message": "late", "traceback": ""}, key="trial")
        hosts.left(segment, {"trial": failure})
        (given,) = hosts.look().given
    assert given.is_lost and not given.has_failed
    news = heir.store.pull()
    assert news.records == [chain[0].key] and news.failures == {} and not heir.store.is_shared("state", chain[1].key)
    assert [lost.store.holds("record", link.key) for link in chain[:2]] == [True, False] and not lost.store.holds("state", chain[1].key)


def test_a_worker_whose_segment_another_host_has_by_now_is_ended_and_fails_nothing(make, monkeypatch):
    host = make()
    plan = host.toy.plan()
    with Hosts(host.store, host.leases, host.said.append) as hosts:
        execution = SharedExecution(host.toy.study(), plan, host.store, host.toy.folder, Listener(), hosts=hosts)
        execution._reschedule()
        lost, kept = list(execution.schedule.segments.values())[:2]
        killed = {lost.end: [], kept.end: []}
        workers = [SimpleNamespace(task=Task(segment, segment.trials[0], True), kill=killed[segment.end].append) for segment in (lost, kept)]
        execution._workers = SimpleNamespace(busy=lambda: workers)
        monkeypatch.setattr(hosts, "look", lambda: Look(News([], {}, []), [], [lost], None))
        execution._hear_of_others()
        assert killed == {lost.end: [LOST], kept.end: []}
        assert execution._struck(workers[0].task, {"event": "died", "error": LOST}) == []


LINKS = [Link(f"{i}", "warmup" if i < 3 else "joint", i, 1.0) for i in range(6)]


@pytest.mark.parametrize(
    "children, is_here, expected",
    [
        (["c"], "111111", [2, 5]),  # the last of a phase, and where trials part
        ([], "111111", [2]),  # nobody goes on from the end of a trial
        (["c"], "111110", [2, 4]),  # it has not come to its end
        ([], "110000", [1]),
        ([], "000000", []),
    ],
)
def test_checkpoints_that_others_may_need(children, is_here, expected):
    assert worth_giving(Segment("5", LINKS, ["t"], None, children), [c == "1" for c in is_here]) == expected
