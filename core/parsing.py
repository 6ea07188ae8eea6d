"""From flat settings (dotted key -> value) to a `Config`, with everything that is wrong reported at once."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Union

from core.config import ALTERNATIVES, Config

SWITCH = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
LARGEST = 2**63  # whole numbers are below it, as those of files are: larger ones fit into no tensor

_hints = functools.cache(
    typing.get_type_hints
)  # resolving annotations is slow, and a grid has many cells


class Fault(NamedTuple):
    key: str
    message: str
    absent: str = ""  # see `ablation.subject.Fault`


def parse(settings: Mapping[str, Any]) -> tuple[Config, list[Fault]]:
    """The configuration that `settings` describe, over the defaults, and all that is wrong with them.

    Later keys win over earlier ones; setting one of several alternatives (`warmup.epochs`,
    `warmup.fraction`, `warmup.plateau`) unsets the others. The configuration is meaningful only if there
    are no faults.
    """
    faults: list[Fault] = []
    tree = to_tree(Config())
    for key, value in settings.items():
        field_type, limits, fault = find(key)
        if fault:
            faults.append(fault)
            continue
        value, message = convert(value, field_type, limits)
        if message:
            faults.append(Fault(key, message))
            continue
        _assign(tree, key, value)
    if faults:
        return Config(), faults
    config = _build(Config, tree)
    return config, _cross_checks(config)


def to_tree(config: Any) -> dict[str, Any]:
    """The configuration as nested plain values: what is recorded, hashed and shown."""
    return {
        f.name: to_tree(value)
        if dataclasses.is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for f in dataclasses.fields(config)
        for value in [getattr(config, f.name)]
    }


def section_type(annotation: Any) -> type | None:
    """The dataclass behind an annotation, also behind `Plateau | None`."""
    options = typing.get_args(annotation) if is_union(annotation) else (annotation,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType)


def find(key: str) -> tuple[Any, Mapping[str, Any], Fault | None]:
    """Type and limits of a dotted key, or the fault that it does not exist."""
    cls: Any = Config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        hints = _hints(cls)
        if part not in hints:
            where = ".".join(parts[:depth])
            valid = sorted(hints)
            close = difflib.get_close_matches(part, valid, n=1)
            hint = (
                f"did you mean '{'.'.join(filter(None, [where, close[0]]))}'?"
                if close
                else f"choose from {', '.join(valid)}"
            )
            return (
                None,
                {},
                Fault(
                    key,
                    f"unknown setting '{part}'" + (f" in '{where}'" if where else "") + f"; {hint}",
                ),
            )
        annotation = hints[part]
        nested = section_type(annotation)
        if depth == len(parts) - 1:
            if nested and not is_union(annotation):
                return (
                    None,
                    {},
                    Fault(
                        key,
                        f"'{key}' is a section; set one of its keys: {', '.join(_hints(nested))}",
                    ),
                )
            field = next(f for f in dataclasses.fields(cls) if f.name == part)
            return annotation, field.metadata, None
        if nested is None:
            return (
                None,
                {},
                Fault(
                    key,
                    f"'{'.'.join(parts[: depth + 1])}' is a value and has no key '{parts[depth + 1]}'",
                ),
            )
        cls = nested
    raise AssertionError("a key has at least one part")


def convert(value: Any, annotation: Any, limits: Mapping[str, Any]) -> tuple[Any, str]:
    """`value` as the annotated type, or why it is not one."""
    if is_union(annotation):
        options = [option for option in typing.get_args(annotation) if option is not type(None)]
        names_none = any(
            "none" in typing.get_args(option) for option in options
        )  # as one of its choices
        if value is None or (value == "none" and not names_none):
            return None, ""
        nested = section_type(annotation)
        if nested:  # `plateau: {}` or `plateau: on` takes the section with its defaults
            empty = value == {} or SWITCH.get(str(value).lower(), False)
            return (
                (to_tree(nested()), "")
                if empty
                else (
                    None,
                    f"{value!r} is not a section; write {{}} for its defaults, or set its keys",
                )
            )
        return convert(value, options[0], limits)
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        if value in choices:
            return value, ""
        close = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        return None, f"'{value}' is not allowed; {hint}choose from {', '.join(choices)}"
    if typing.get_origin(annotation) is tuple:
        item = typing.get_args(annotation)[0]
        values = value if isinstance(value, (list, tuple)) else [value]
        converted = [convert(v, item, limits) for v in values]
        message = next((m for _, m in converted if m), "")
        if not converted:
            return None, "the list is empty; at least one value"
        return (None, message) if message else (tuple(v for v, _ in converted), "")
    if annotation is bool:
        if isinstance(value, bool):
            return value, ""
        if isinstance(value, str) and value.lower() in SWITCH:
            return SWITCH[value.lower()], ""
        return None, f"{value!r} is not a switch; write true or false"
    if annotation is int:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not (abs(value) < LARGEST and float(value).is_integer())
        ):
            return None, f"{_short(value)} is not a whole number"
        return _limit(int(value), limits)
    if annotation is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None, f"{value!r} is not a number"
        if not (math.isfinite(value) if isinstance(value, float) else abs(value) < LARGEST):
            return None, f"{_short(value)} is not a finite number"
        return _limit(float(value), limits)
    return (value, "") if isinstance(value, str) else (None, f"{value!r} is not a text")


def _short(value: Any) -> str:
    """A number as a message quotes it; Python refuses to print very long ones."""
    return (
        f"{value:#x}"[:20] + "..."
        if isinstance(value, int) and abs(value) >= LARGEST
        else repr(value)
    )


def _limit(value: float, limits: Mapping[str, Any]) -> tuple[Any, str]:
    if "minimum" in limits and value < limits["minimum"]:
        return None, f"{value:g} is too small; at least {limits['minimum']:g}"
    if "above" in limits and value <= limits["above"]:
        return None, f"{value:g} is too small; more than {limits['above']:g}"
    if "maximum" in limits and value > limits["maximum"]:
        return None, f"{value:g} is too large; at most {limits['maximum']:g}"
    if "below" in limits and value >= limits["below"]:
        return None, f"{value:g} is too large; less than {limits['below']:g}"
    return value, ""


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    parts = key.split(".")
    group = ALTERNATIVES.get(parts[0])
    if group and len(parts) > 1 and parts[1] in group and value is not None:
        for other in group:
            if other != parts[1]:
                tree[parts[0]][other] = None
    node, cls = tree, Config
    for part in parts[:-1]:
        cls = section_type(_hints(cls)[part])
        if node[part] is None:  # an optional section, named for the first time
            node[part] = to_tree(cls())
        node = node[part]
    node[parts[-1]] = value


def _build(cls: type, tree: Mapping[str, Any]) -> Any:
    hints = _hints(cls)
    values = {}
    for name, value in tree.items():
        nested = section_type(hints[name])
        if nested and value is not None:
            value = _build(nested, value)
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return cls(**values)


def _cross_checks(config: Config) -> list[Fault]:
    """What no single setting can tell."""
    faults = []
    data, encoder, warmup = config.data, config.encoder, config.warmup
    if data.source == "folder" and not data.path:
        faults.append(
            Fault(
                "data.path",
                "source 'folder' needs the path of a folder or .tar.gz archive with train/ and test/",
            )
        )
    if data.source.startswith("cifar") and not data.path:
        faults.append(
            Fault(
                "data.path", f"source '{data.source}' needs the folder that torchvision keeps it in"
            )
        )
    n_channels = 1 if data.channels == "gray" else 3
    for name in ("mean", "std"):
        n_values = len(getattr(data, name))
        if n_values not in (1, n_channels):
            faults.append(
                Fault(
                    f"data.{name}",
                    f"has {n_values} values; the images have {n_channels} channel{'s' * (n_channels > 1)}",
                )
            )
    if data.flip_channels and data.channels == "gray":
        faults.append(Fault("data.flip_channels", "gray images have no red and blue to swap"))
    if encoder.checkpoint:
        order = (
            {"rgb": "bgr", "bgr": "rgb"}.get(data.channels, data.channels)
            if data.flip_channels
            else data.channels
        )
        if encoder.channels is None:
            faults.append(
                Fault(
                    "encoder.channels",
                    "a checkpoint needs the channel order that it was trained on: rgb, bgr or gray",
                )
            )
        elif encoder.channels != order:
            faults.append(Fault(
                "encoder.channels",
                f"the encoder was trained on {encoder.channels} and the images are loaded as {order}; "
                f"set data.flip_channels: {str(not data.flip_channels).lower()} (a swap of red and blue costs many points of accuracy, silently)",
            ))  # fmt: skip
    elif config.pretraining.epochs == 0:
        faults.append(
            Fault(
                "pretraining.epochs",
                "0 leaves the encoder untrained; name an encoder.checkpoint or train it",
            )
        )
    if (
        config.method == "joint"
        and [warmup.epochs, warmup.fraction, warmup.plateau].count(None) == 3
    ):
        faults.append(Fault("warmup", "set one of epochs, fraction, plateau"))
    if warmup.epochs is not None and warmup.epochs > config.epochs:
        faults.append(
            Fault(
                "warmup.epochs",
                f"{warmup.epochs} is more than the {config.epochs} epochs of the trial",
            )
        )
    faults += _plateau_faults(config)
    faults += _optimiser_faults(config)
    if (
        config.method == "joint"
        and config.losses.consistency
        and not config.mixup
        and data.augmentation == "none"
    ):
        message = f"{config.losses.consistency:g}, and both views of an image would be the same; set data.augmentation: crop, crop-flip or strong, or mixup"
        faults.append(Fault("losses.consistency", message))
    batching = {"joint": config.batching, "staged": config.staged.batching}.get(config.method)
    if (
        config.losses.logit_adjustment
        and batching == "balanced"
        and not (config.method == "joint" and config.losses.generated)
    ):
        message = f"{config.losses.logit_adjustment:g} changes nothing: balanced batches have a uniform prior; set it to 0, or batching to natural"
        faults.append(Fault("losses.logit_adjustment", message))
    if (
        config.method not in ("ce", "ce-adjusted")
        and config.head.start == "pretrained"
        and config.head.name != "linear"
    ):
        faults.append(
            Fault(
                "head.start",
                f"'pretrained' is the linear head of the pre-training, and head.name is {config.head.name}; choose random, or head.name: linear",
            )
        )
    if (
        config.method == "staged"
        and config.staged.encoding.augmented
        and data.augmentation == "none"
    ):
        message = "true, and data.augmentation is none: nothing would differ; set data.augmentation: crop, crop-flip or strong, or staged.encoding.augmented: false"
        faults.append(Fault("staged.encoding.augmented", message))
    if config.generation.method == "ddim" and config.generation.steps > config.diffusion.steps:
        faults.append(
            Fault(
                "generation.steps",
                f"{config.generation.steps} is more than the {config.diffusion.steps} of diffusion.steps",
            )
        )
    return faults


def _optimiser_faults(config: Config) -> list[Fault]:
    """Momentum that no optimiser takes, steps that do not go together, and a ramp from a thaw that is not known beforehand."""
    faults = []
    optim, plateau = config.optim, config.warmup.plateau
    uses_sgd = any(optim.of(module).name == "sgd" for module in ("encoder", "head", "denoiser"))
    if optim.nesterov and not (uses_sgd and optim.momentum > 0):
        why = "no module's optimiser is sgd" if not uses_sgd else "optim.momentum is 0"
        faults.append(Fault("optim.nesterov", f"true, and {why}"))
    for key, value in (("optim.sam", optim.sam), ("losses.consistency", config.losses.consistency)):
        if value and config.method == "joint" and config.routing == "alternating":
            faults.append(
                Fault(
                    key,
                    f"{value:g} does not go with routing: alternating, which takes two steps a batch; set it to 0, or another routing",
                )
            )
    if optim.ramp_epochs and plateau is not None:
        faults.append(
            Fault(
                "optim.ramp_epochs",
                "goes with warmup.epochs or warmup.fraction: a plateau's thaw is not known beforehand",
            )
        )
    return faults


def _plateau_faults(config: Config) -> list[Fault]:
    """A plateau that this trial could not reach, or not leave."""
    plateau = config.warmup.plateau
    if plateau is None or config.method != "joint" or not config.end_to_end:
        return []
    if plateau.min_epochs > config.epochs:
        message = f"{plateau.min_epochs} is more than the {config.epochs} epochs of the trial: the encoder would never thaw"
        return [Fault("warmup.plateau.min_epochs", message)]
    longest = config.longest_warmup
    if 2 * plateau.window > longest:
        message = f"{plateau.window} is too large: two windows are compared, and the warm-up lasts {longest} epochs at most"
        return [Fault("warmup.plateau.window", message)]
    return []
