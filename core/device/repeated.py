"""Training steps that a GPU repeats: recorded once as a CUDA graph, replayed for further batches.

The networks here are small: on a GPU, launching a step's thousand kernels takes longer than running
them, and a replay launches all of them at once. It repeats what the device did and nothing that
Python did, so a step may change lasting tensors in place only, draws no random numbers, and never
asks for a value.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Calls before the recording, in which libraries set themselves up and optimisers make their
# moments.
N_PLAIN = 3

Step = Callable[..., Any]
Recorder = Callable[[Step, list[Tensor | None]], tuple[Any, Callable[[], None]]]
"""Runs nothing; returns the outputs' places, and a function that fills them from the inputs'."""


class Repeated:
    """A step that is recorded for each combination of input shapes.

    Its inputs are tensors or None. What a call returns is overwritten by the next one.
    """

    def __init__(self, step: Step, record: Recorder | None):
        self.step, self.record = step, record
        self.n_calls: Counter[Any] = Counter()
        # By kind: the inputs' places, the outputs' places, and the function that repeats the step.
        self.recordings: dict[Any, tuple[list[Tensor | None], Any, Callable[[], None]]] = {}

    def __call__(self, *inputs: Tensor | None) -> Any:
        """Run the step on these inputs, or replay its recording on them."""
        if self.record is None:
            return self.step(*inputs)
        kind = tuple(None if x is None else (x.shape, x.dtype) for x in inputs)
        self.n_calls[kind] += 1
        if self.n_calls[kind] <= N_PLAIN:
            return self.plainly(*inputs)
        if kind not in self.recordings:
            own = [None if x is None else x.clone() for x in inputs]
            self.recordings[kind] = own, *self.record(self.step, own)
        own, outputs, replay = self.recordings[kind]
        for place, new in zip(own, inputs, strict=True):
            if place is not None and new is not None:
                place.copy_(new)
        replay()
        return outputs

    def plainly(self, *inputs: Tensor | None, **options: Any) -> Any:
        """Call the step without recording it, with what else it takes by name.

        On a GPU on a stream of its own, as a recording needs it of the calls before.
        """
        if not any(x is not None and x.is_cuda for x in inputs):
            return self.step(*inputs, **options)
        main, aside = torch.cuda.current_stream(), side_stream()
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            outputs = self.step(*inputs, **options)
        main.wait_stream(aside)
        return outputs


@functools.cache
def side_stream() -> torch.cuda.Stream:
    """One stream for all calls in this process.

    Memory is kept by stream, and cuBLAS keeps 32 MiB for each that it has met.
    """
    return torch.cuda.Stream()


def cuda_graph(step: Step, inputs: list[Tensor | None]) -> tuple[Any, Callable[[], None]]:
    """Record a step on a GPU."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step(*inputs)
    return outputs, graph.replay
