"""A training that has diverged: noticed early without making a GPU wait, and never scored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from core.config.schema import Config

# Steps between two looks at the sums on a GPU, and on any device at whether a loss has exploded.
EVERY = 50

EXPLODED = 1e4
"""A loss has exploded that is above it in the mean over the epoch so far and in its last step.

It is thousands of times what a model costs that knows nothing (ln C for a classifier, about 1 for a
denoiser). Absolute: a loss that rises a thousandfold from almost nothing, as on memorised latents,
is fine. So is a spike that it recovers from, as where a constant latent dimension comes alive."""
# The same of a diffusion loss weighted by SNR, whose weights are 86 on average, up to 24,000.
EXPLODED_BY_SNR = 1e6
CAN_EXPLODE = ("pretrain/loss", "train/real_loss", "train/generated_loss", "train/diffusion_loss")
# Not the geometry's terms: they compare with tracked radii, and grow where the encoder collapses,
# which is a result. Nor the diffusion loss where the encoder moves and latents are standardised by
# tracked statistics: it is in units of a deviation that vanishes with the encoder's, spikes at the
# collapse and comes back, so that of two collapsed arms one would count as diverged and the other
# as a result.


class Diverged(FloatingPointError):
    """Something of an epoch is not finite, or a loss has exploded.

    Of a trial that failed so, the harness records the class's name.
    phase, epoch: of the record that would have been; `Trial.run` fills them in.
    """

    def __init__(self, metric: str, value: float, limit: float | None = None):
        super().__init__(metric, value, limit)
        self.metric, self.value, self.limit = metric, value, limit
        self.phase, self.epoch = "", 0

    def __str__(self) -> str:
        above = f", above {self.limit:g}" if self.limit is not None else ""
        where = f" in {self.phase} epoch {self.epoch}" if self.phase else ""
        return f"{self.metric} is {self.value:.4g}{above}{where}: the training diverged"


class Means:
    """Running sums on the device, over the steps of an epoch.

    Raise Diverged, naming the metric, where a sum is not finite, or a loss has exploded. On a CPU
    the former is seen at once. A GPU is not waited for: every `EVERY` steps the sums are copied
    beside its work, and looked at once the copy is there. All are looked at by `read`.
    """

    def __init__(self, config: Config, encoder_moves: bool = False) -> None:
        self.limits = dict.fromkeys(CAN_EXPLODE, EXPLODED)
        if encoder_moves and config.diffusion.scaling == "standardised":
            del self.limits["train/diffusion_loss"]
        elif config.diffusion.weighting == "snr":
            self.limits["train/diffusion_loss"] = EXPLODED_BY_SNR
        self.sums: dict[str, Tensor] = {}
        # values of the last step that had them
        self.last: dict[str, Tensor] = {}
        self.n = 0
        # steps that had a value of this name
        self.counts: Counter[str] = Counter()
        # A copy of `_seen` on its way to the host, the event of its arrival, and its counts.
        self._copy: tuple[Tensor, torch.cuda.Event, Counter[str]] | None = None

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in a step's values (), by name; they may be overwritten by the next step."""
        known = [name for name in values if name in self.sums]
        if known:
            sums = [self.sums[name] for name in known]
            torch._foreach_add_(sums, [values[name] for name in known])
        self.sums |= {name: v.clone() for name, v in values.items() if name not in self.sums}
        self.counts.update(values.keys())
        self.n += 1
        self.last |= values
        device = next(iter(self.sums.values())).device.type
        if device == "cpu":
            self._judge(self._seen().tolist(), self.counts, self.n % EVERY == 0)
        elif device == "cuda":
            self._look()

    def read(self) -> dict[str, float]:
        """Return the means, each over the steps that have it."""
        if not self.n:
            return {}
        self._judge(self._seen().tolist(), self.counts)
        counts = torch.tensor([float(self.counts[name]) for name in self.sums])
        means = torch.stack(list(self.sums.values())).cpu() / counts
        return dict(zip(self.sums, means.tolist(), strict=True))

    def _seen(self) -> Tensor:
        """(2 K,) the sums, and what the last step added to each."""
        return torch.stack([*self.sums.values(), *(self.last[name] for name in self.sums)])

    def _look(self) -> None:
        if self._copy is not None and self._copy[1].query():
            seen, _, counts = self._copy
            self._copy = None
            self._judge(seen.tolist(), counts)
        if self._copy is None and self.n % EVERY == 0:
            there = torch.cuda.Event()
            on_host = torch.empty(2 * len(self.sums), pin_memory=True)
            on_host.copy_(self._seen(), non_blocking=True)
            there.record()
            self._copy = on_host, there, self.counts.copy()

    def _judge(
        self, seen: Sequence[float], counts: Counter[str], may_have_exploded: bool = True
    ) -> None:
        """seen: as `_seen` made it when there were these counts."""
        for i, (name, n) in enumerate(counts.items()):
            total, last, limit = seen[i], seen[len(counts) + i], self.limits.get(name, math.inf)
            if not math.isfinite(total):
                raise Diverged(name, total)
            if may_have_exploded and min(total / n, last) > limit:
                raise Diverged(name, total / n, limit)


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise Diverged where a value is NaN or infinite."""
    if not tensor.isfinite().all():
        raise Diverged(name, float(tensor[~tensor.isfinite()][0]))


def require_finite_modules(**modules: nn.Module) -> None:
    """Raise Diverged, naming the first parameter or running statistic that is not finite.

    The last step's loss does not tell.
    """
    tensors = {
        f"{name}.{key}": t
        for name, module in modules.items()
        for key, t in module.state_dict().items()
        if t.is_floating_point()
    }
    # (K,) largest magnitudes; NaN where there is one
    largest = torch.stack(torch._foreach_norm(list(tensors.values()), math.inf))
    for name, value in zip(tensors, largest.tolist(), strict=True):
        if not math.isfinite(value):
            raise Diverged(name, value)
