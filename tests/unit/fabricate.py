"""Studies that never ran, with effects of known size: what reports and statistics are tested on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

from ablation.storage.runs import Manifest, Outcome, RunFolder, TrialSpec

FACTORS = {
    "lr_split": {"off": {"optim.lr.encoder": 1e-3}, "on": {"optim.lr.encoder": 1e-5}},
    "warmup": {"off": {"warmup": {"epochs": 2}}, "on": {"warmup": {"fraction": 0.25}}},
    "gradient_decoupling": {"off": {"routing": "summed"}, "on": {"routing": "decoupled"}},
}
EFFECTS = {
    "lr_split": 8.0,
    "warmup": 2.0,
    "gradient_decoupling": 0.0,
}  # points of top-1, at the level `on`
BASELINES = {"ce": 63.0, "ldmlr": 66.0, "ldmlr-no-generation": 65.0, "balanced-head": 66.5}
CLASS_COUNTS = [122, 73, 44, 26, 16, 9, 6, 3, 2, 1]
N_EPOCHS = 20
N_TEST = [120, 80, 40]  # test images per class, of trials that tell their hits


def planted(levels: dict[str, str]) -> float:
    """Top-1 of an arm, without noise, in percent."""
    return 60.0 + sum(
        EFFECTS.get(factor, 0.0) * (level != "off") for factor, level in levels.items()
    )


def study(
    path: Path,
    factors: dict[str, dict] = FACTORS,
    baselines: Sequence[str] = tuple(BASELINES),
    seeds: Sequence[int] = (0, 1, 2),
    top1: Callable[[dict[str, str]], float] = planted,
    noise: float = 0.6,
    state: Callable[[TrialSpec], str] = lambda spec: "COMPLETE",
    detail: bool = False,
    **manifest,
) -> RunFolder:
    """Fabricate `runs/<study>/` in `path`.

    `top1` is an arm's true accuracy; the seed adds a shift that all share (sd 2) and each trial its own
    (sd `noise`), both to top-1 in percent. `detail` adds whole histories
    of every metric, for the figures.
    """
    cells = [("arm", dict(zip(factors, levels))) for levels in itertools.product(*factors.values())]
    trials = []
    for seed in seeds:
        for kind, name, levels in [
            *((k, arm_name(v), v) for k, v in cells),
            *(("baseline", b, {}) for b in baselines),
        ]:
            trials.append(
                TrialSpec(
                    f"{name}--s{seed}",
                    name,
                    kind,
                    levels,
                    seed,
                    f"key-{name}-{seed}",
                    {},
                    N_EPOCHS,
                    15,
                    5,
                )
            )
    folder = RunFolder(path)
    defaults = dict(
        study="fixes",
        experiment="digits-lt",
        title="Which fixes make joint training work",
        question="Which of the fixes matters, by how much, and are we sure?",
        dataset="digits-lt",
        design=["factorial"],
        metric={"name": "test/top1", "goal": "maximize"},
        factors=factors,
        seeds=list(seeds),
        baselines=list(baselines),
        reference="ldmlr" if "ldmlr" in baselines else None,
        claims=[],
        trials=trials,
        published=[
            {
                "method": "LDMLR",
                "top1": 68.5,
                "protocol": "best epoch on test",
                "source": "a paper, table 1",
            }
        ],
        facts={"class_counts": CLASS_COUNTS, "data_fingerprint": "f00d", "device": "cpu"},
        provenance={
            "commit": "0123abc",
            "dirty": False,
            "versions": {"python": "3.11"},
            "command": "ablate run --grid experiments/fixes.yaml",
        },
    )
    with mock.patch("os.fsync"):  # what takes the time, and nothing here has to outlast a power cut
        folder.write_manifest(Manifest(**{**defaults, **manifest}))
        for index, spec in enumerate(trials):
            rng = np.random.default_rng([spec.seed, index])
            shift = np.random.default_rng([spec.seed]).normal(0, 2)
            true = top1(spec.levels) if spec.kind == "arm" else BASELINES[spec.arm]
            _write_trial(
                folder, spec, float(true + shift + rng.normal(0, noise)), state(spec), rng, detail
            )
    return folder


def arm_name(levels: dict[str, str]) -> str:
    changed = [
        factor if level == "on" else f"{factor}={level}"
        for factor, level in levels.items()
        if level != "off"
    ]
    return "+".join(changed) or "reference"


def packed(hits):
    """hits: per class (n_images,) bool."""
    return " ".join(f"{len(own)}:{np.packbits(own).tobytes().hex()}" for own in hits)


def with_hits(folder, accuracy, n_test=N_TEST):
    """Give finished trials hits, and the metrics that follow: images are as hard for all arms alike.

    accuracy: arm -> share.
    """
    hardness = [np.random.default_rng([7, label]).random(n) for label, n in enumerate(n_test)]
    for i, spec in enumerate(folder.manifest().trials):
        own = np.random.default_rng([11, i])
        hits = [0.8 * hard + 0.2 * own.random(len(hard)) < accuracy(spec.arm) for hard in hardness]
        metrics = {
            "test/top1": 100 * np.concatenate(hits).mean(),
            "test/balanced_accuracy": 100 * np.mean([one.mean() for one in hits]),
        }
        outcome = folder.outcome(spec.trial)
        if outcome.state == "FAILED":
            continue
        with mock.patch("os.fsync"):
            folder.write_outcome(
                spec.trial,
                replace(outcome, metrics={**outcome.metrics, **metrics}, hits=packed(hits)),
            )
    return folder


def better(arm):
    return 0.75 if arm == "lr_split" else 0.5


def _write_trial(
    folder: RunFolder,
    spec: TrialSpec,
    accuracy: float,
    state: str,
    rng: np.random.Generator,
    detail: bool,
) -> None:
    if state == "WAITING":
        return
    if spec.kind == "baseline":
        records = [{"phase": "evaluate", "epoch": 1, "seconds": 0.1, "metrics": {}}]
    else:
        warmup = 5 if spec.levels.get("warmup", "off") != "off" else 2
        first = 1 if detail else N_EPOCHS - 1
        records = [
            {"phase": "warmup" if epoch <= warmup else "joint", "epoch": epoch, "seconds": 0.1}
            for epoch in range(first, N_EPOCHS + 1)
        ]
        for record in records:
            since_thaw = record["epoch"] - warmup
            record["metrics"] = _metrics(spec, accuracy, since_thaw, rng) if detail else {}
    records[-1]["metrics"].update(
        {"test/top1": accuracy, "test/many": accuracy + 20, "test/few": accuracy - 25}
    )
    if state == "RUNNING":
        records = records[: len(records) // 2]
    folder.write_records(spec.trial, records)
    error = {"type": "ValueError", "message": "the loss is NaN\nat epoch 3", "traceback": "..."}
    slope = np.linspace(18, -30, len(CLASS_COUNTS))
    per_class = np.clip(
        accuracy + slope - slope.mean() + rng.normal(0, 4, len(CLASS_COUNTS)), 0, 100
    )
    if state == "COMPLETE":
        metrics = {**records[-1]["metrics"], "best/test/top1": accuracy + 1.5}
        vectors = {"test/per_class": per_class.tolist()}
        folder.write_outcome(
            spec.trial, Outcome("COMPLETE", metrics, 12.5, vectors=vectors, key=spec.key)
        )
    elif state == "FAILED":
        folder.write_outcome(spec.trial, Outcome("FAILED", {}, 3.0, error=error, key=spec.key))


def _metrics(
    spec: TrialSpec, accuracy: float, since_thaw: int, rng: np.random.Generator
) -> dict[str, float]:
    """Curves that look like training: flat while the encoder is frozen, then a dip and a recovery."""
    slow = spec.levels.get("lr_split", "off") != "off"
    decoupled = spec.levels.get("gradient_decoupling", "off") != "off"
    t = max(since_thaw, 0)
    damage = (0 if slow else 14) * np.exp(-t / 3) * (t > 0) + 4 * np.exp(-(since_thaw + 5) / 3)
    return {
        "test/top1": float(accuracy - damage + rng.normal(0, 0.5)),
        "train/diffusion_loss": float(
            0.2 + np.exp(-(since_thaw + 5) / 4) + (0 if slow else 0.15) * (t > 0)
        ),
        "grad/encoder": float(
            (t > 0) * (1 + (not decoupled)) * np.exp(-t / 20) * rng.uniform(0.9, 1.1)
        ),
        "grad/conflict_cosine": float(-0.3 + 0.02 * t + 0.1 * slow + rng.normal(0, 0.03)),
        "diag/latent_drift": float((0.05 if slow else 0.6) * (1 - np.exp(-t / 5))),
        "diag/effective_rank": float(
            40 - (1 if slow else 18) * (1 - np.exp(-t / 6)) - 3 * decoupled * (t > 0)
        ),
        "diag/radius_head": float(2.5 - (0.1 if slow else 0.8) * (1 - np.exp(-t / 6))),
        "diag/radius_tail": float(1.5 + 0.05 * t + 0.1 * decoupled),
    }
