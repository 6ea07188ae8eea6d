"""A subject whose trials are chains of short epochs, each computed from the state that the one before it left.

Every metric depends on the whole chain, so that a resume from a wrong checkpoint shows. No torch: processes start fast.
To be copied into a project's folder. `FAULTS` says what it does instead, at the epoch `at` of trials with `fault`.
"""

import hashlib
import json
import os
import time

from ablation.subject.protocol import Link

WARMUP = 3  # epochs that do not depend on `rate`


def _raise():
    raise ArithmeticError("planted")


FAULTS = {
    "raises": _raise,
    "segfaults": lambda: os.kill(os.getpid(), 11),
    "turns_nan": lambda: None,  # its metric does, below
    "exits": lambda: os._exit(7),
    "is_killed": lambda: os.kill(os.getpid(), 9),
    "hangs": lambda: time.sleep(600),
    "hoards": lambda: (b"x" * 600_000_000, time.sleep(600)),
}


class Chains:
    def check(self, settings):
        return []

    def resolve(self, settings):
        return dict(settings)

    def baselines(self):
        return {}

    def describe(self, settings):
        return {}

    def chain(self, settings, seed, records):
        links, key = [], f"seed {seed}"
        for epoch in range(1, settings.get("epochs", 8) + 1):
            own = {
                name: value
                for name, value in settings.items()
                if name not in ("pause", "epochs") and (epoch > WARMUP or name == "start")
            }
            key = hashlib.sha256(
                json.dumps([key, epoch, sorted(own.items())]).encode()
            ).hexdigest()[:32]
            links.append(Link(key, "warmup" if epoch <= WARMUP else "joint", epoch, 1.0))
        return links

    def advance(self, settings, seed, until, store, report):
        links = self.chain(settings, seed, None)
        state, done = b"begun", 0
        for i, link in enumerate(links):
            if store.load("record", link.key) is None:
                break
            if (kept := store.load("state", link.key)) is not None:
                state, done = kept, i + 1
        while done < len(links) and not (done and links[done - 1].key == until):
            link, begun = links[done], time.perf_counter()
            if (
                settings.get("at") == link.epoch
                and (fault := settings.get("fault"))
                and not os.path.exists("mended")
            ):
                FAULTS[fault]()
            time.sleep(settings.get("pause", 0.02))
            state = hashlib.sha256(state + link.key.encode()).digest()
            is_nan = (
                settings.get("fault") == "turns_nan"
                and link.epoch >= settings["at"]
                and not os.path.exists("mended")
            )
            top1 = float("nan") if is_nan else state[0] / 2.56
            record = {
                "phase": link.phase, "epoch": link.epoch, "seconds": time.perf_counter() - begun, "time": time.time(),
                "metrics": {"test/top1": top1, "train/loss": state[1] / 256}, "vectors": {},
            }  # fmt: skip
            store.save("record", link.key, json.dumps(record).encode(), record["seconds"])
            print("trained", link.key, flush=True)
            is_to_stop = report(link.key, record)
            done += 1
            if is_to_stop or done == len(links) or link.key == until or done % 2 == 0:
                store.save("state", link.key, state, record["seconds"])
            if is_to_stop:
                return


SUBJECT = Chains()
