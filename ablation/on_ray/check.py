"""Whether this node computes what was planned; run as `python -m ablation.on_ray.check` in the project folder.

    -> a JSON line {"subject", "settings", "seed", "key"}: a trial, and the key of its first link as it was planned
    <- nothing, or what is wrong

A key holds the fingerprints of settings, data and source: where it is the same, all of these are.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ablation.errors import InputError
from ablation.subjects import load_subject


def difference(sample: dict[str, Any]) -> str | None:
    try:
        key = load_subject(sample["subject"]).chain(sample["settings"], sample["seed"], lambda _: None)[0].key
    except InputError as error:
        return str(error)
    except (OSError, ValueError) as error:  # data that are not there, or not what they were
        return f"{type(error).__name__}: {error}"
    return None if key == sample["key"] else "data, or the source of what is ablated, are not those of the plan"


if __name__ == "__main__":
    print(difference(json.load(sys.stdin)) or "")
