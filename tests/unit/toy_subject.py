"""A subject that trains nothing.

It imports little: a project's sources are read at each look at its code, and those of this file are its imports.
"""

import json
from itertools import takewhile

from ablation.subject.protocol import Link

N_EPOCHS, LONGEST = 4, 3


class Toy:
    """Four epochs: a warm-up of a fixed length, or until a record says that it has settled, then joint training,
    which alone depends on the rate. `settles_after`: seed -> epochs of warm-up."""

    def __init__(self, settles_after: dict[int, int] | None = None):
        self.settles_after = settles_after or {}

    def top1(self, link, seed):
        return float(10 * link.epoch + seed)

    def check(self, settings):
        return []

    def resolve(self, settings):
        return dict(settings)

    def baselines(self):
        return {}

    def describe(self, settings):
        return {}

    def chain(self, settings, seed, records):
        links, settled = [], False
        for epoch in range(1, N_EPOCHS + 1):
            joint = settled or epoch > (
                LONGEST if settings["warmup"] == "plateau" else settings["warmup"]
            )
            key = (
                f"{links[-1].key if links else f'seed{seed} '}{settings['rate'] if joint else 'w'}"
            )
            links.append(Link(key, "joint" if joint else "warmup", epoch, 1.0))
            if settings["warmup"] == "plateau" and not joint:
                settled = bool((records(key) or {"metrics": {}})["metrics"].get("settled"))
        return links

    def advance(self, settings, seed, until, store, report):
        def records(key):
            data = store.load("record", key)
            return None if data is None else json.loads(data)

        links = self.chain(settings, seed, records)
        whole = list(takewhile(lambda link: store.load("record", link.key) is not None, links))
        done = max(
            (i + 1 for i, link in enumerate(whole) if store.load("state", link.key) is not None),
            default=0,
        )
        while done < len(links) and not (done and links[done - 1].key == until):
            link = links[done]
            metrics = {
                "top1": self.top1(link, seed),
                "settled": float(link.epoch == self.settles_after.get(seed)),
            }
            record = {
                "phase": link.phase,
                "epoch": link.epoch,
                "seconds": 3600.0,
                "time": 0.0,
                "metrics": metrics,
                "vectors": {},
            }
            store.save("record", link.key, json.dumps(record).encode(), 3600.0)
            report(link.key, record)
            links, done = self.chain(settings, seed, records), done + 1
            if done == len(links) or link.key == until or links[done].phase != link.phase:
                store.save("state", link.key, b"checkpoint", 3600.0)
            if until is not None and all(later.key != until for later in links[done:]):
                return


SUBJECT = Toy(settles_after={0: 1, 1: 2})
