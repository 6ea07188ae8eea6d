"""A toy study whose arms are searched; its trials pre-train for two epochs and train for some more."""

from __future__ import annotations

from typing import Any

from toy_study import ToyStudy
from toy_subject import Toy

from ablation.planning.plan import build_plan
from ablation.search.tuning import Tuning
from ablation.storage.asked import SUFFIX
from ablation.storage.runs import RunFolder
from ablation.study.opening import PlannedStudy
from ablation.subject.protocol import Link

N_PRETRAINING, N_WARMUP, N_EPOCHS = 2, 2, 6
GRID = """
study: toy
experiment: nothing
metric: {name: top1, goal: maximize}
seeds: [0, 1]
settings: {rate: 1, scale: 1, epochs: 6}
factors:
  warmup: {two: {warmup: 2}, cold: {warmup: 1}}
search:
  space: {SPACE}
  BUDGET
  metric: {name: validation, goal: maximize}
  pruner: hyperband
"""


class Pretrained(Toy):
    """Pre-training that `scale` changes, a warm-up, and `epochs` in all that `rate` changes."""

    warnings: tuple[str, ...] = ()
    drawn_per_seed: tuple[str, ...] = ()

    def describe(self, settings: Any) -> dict[str, Any]:
        drawn = {"drawn_per_seed": list(self.drawn_per_seed)} if self.drawn_per_seed else {}
        return drawn | ({"warnings": list(self.warnings)} if self.warnings else {})

    def chain(self, settings: Any, seed: int, records: Any) -> list[Link]:
        key, links = f"seed{seed}", []
        for epoch in range(1, N_PRETRAINING + 1):
            key += f" p{settings['scale']}"
            links.append(Link(key, "pretrain", epoch, 1.0))
        for epoch in range(1, settings["epochs"] + 1):
            is_joint = epoch > settings["warmup"]
            key += f" {settings['rate']}" if is_joint else " w"
            links.append(Link(key, "joint" if is_joint else "warmup", epoch, 1.0))
        return links


class SearchedStudy(ToyStudy):
    """`ToyStudy` with a search. space, budget: as in the grid file"""

    def __init__(
        self, root: Any, space: str = "{rate: {low: 1, high: 9}}", budget: str = "trials: 3"
    ):
        super().__init__(root, Pretrained())
        (root / "grid.yaml").write_text(GRID.replace("{SPACE}", space).replace("BUDGET", budget))
        (root / "runs" / f"toy{SUFFIX}").mkdir(parents=True)

    def tuning(self) -> Tuning:
        return Tuning(self.study(), RunFolder(self.root / "runs" / f"toy{SUFFIX}"))

    def planned(self, seeds: str | None = None) -> PlannedStudy:
        study = self.study(seeds)
        plan = build_plan(study, self.store, self.folder)
        file = self.root / "published.yaml"
        return PlannedStudy(study, "toy", plan, self.places, file, tuning=self.tuning())

    def has_run(self, links: Any) -> None:
        """Note that these epochs are recorded."""
        for link in links:
            self.store.save("record", link.key, b"{}")
