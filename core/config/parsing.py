"""From flat settings (dotted key -> value) to a `Config`, and all that is wrong with them."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import operator
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Union

from core.config.schema import ALTERNATIVES, Config, Data

SWITCH = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
# whole numbers are below it, as those of files are: larger ones fit into no tensor
LARGEST = 2**63
LIMITS = {
    "minimum": (operator.lt, "too small; at least"),
    "above": (operator.le, "too small; more than"),
    "maximum": (operator.gt, "too large; at most"),
    "below": (operator.ge, "too large; less than"),
}
"""Name of a limit -> what compares a value that breaks it with the limit, and in words."""

# resolving annotations is slow, and a grid has many cells
_hints = functools.cache(typing.get_type_hints)


class Fault(NamedTuple):
    """See `ablation.subject.protocol.Fault`."""

    key: str
    message: str
    absent: str = ""


def parse(settings: Mapping[str, Any]) -> tuple[Config, list[Fault]]:
    """The configuration of `settings`, over the defaults, and all that is wrong with them.

    Later keys win over earlier ones; setting one of several alternatives (`warmup.epochs`,
    `warmup.fraction`, `warmup.plateau`) unsets the others. The configuration is meaningful only if
    there are no faults.
    """
    faults: list[Fault] = []
    given: dict[str, Any] = {}
    for key, value in settings.items():
        try:
            annotation, limits = find(key)
            _assign(given, key, convert(value, annotation, limits))
        except ValueError as error:
            faults.append(Fault(key, str(error)))
    if faults:
        return Config(), faults
    config = _build(Config, given)
    return config, list(_contradictions(config))


def to_tree(config: Any) -> dict[str, Any]:
    """The configuration as nested plain values: what is recorded, hashed and shown."""
    values = ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))
    return {
        name: to_tree(value)
        if dataclasses.is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in values
    }


def without_none(annotation: Any) -> tuple[Any, bool]:
    """T and True of the annotation `T | None`; any other annotation as it is, and False."""
    if typing.get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    return next(kind for kind in typing.get_args(annotation) if kind is not types.NoneType), True


@functools.lru_cache(maxsize=1000)
def find(key: str) -> tuple[Any, Mapping[str, float]]:
    """Type and limits of a dotted key. Raises ValueError if there is no such setting."""
    section: Any = Config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        hints, above = _hints(section), ".".join(parts[:depth])
        if part not in hints:
            close = difflib.get_close_matches(part, sorted(hints), n=1)
            nearest = ".".join([*parts[:depth], *close])
            hint = (
                f"did you mean '{nearest}'?" if close else f"choose from {', '.join(sorted(hints))}"
            )
            where = f" in '{above}'" if above else ""
            raise ValueError(f"unknown setting '{part}'{where}; {hint}")
        kind, may_be_none = without_none(hints[part])
        is_section = dataclasses.is_dataclass(kind)
        if depth < len(parts) - 1:
            if not is_section:
                value = ".".join(parts[: depth + 1])
                raise ValueError(f"'{value}' is a value and has no key '{parts[depth + 1]}'")
            section = kind
        elif is_section and not may_be_none:
            keys = ", ".join(_hints(kind))
            raise ValueError(f"'{key}' is a section; set one of its keys: {keys}")
    return hints[part], section.__dataclass_fields__[part].metadata


def convert(value: Any, annotation: Any, limits: Mapping[str, float]) -> Any:
    """`value` as the annotated type, {} for a section with its defaults.

    Raises ValueError if it is no such value.
    """
    kind, may_be_none = without_none(annotation)
    options = typing.get_args(kind)
    if may_be_none and (value is None or (value == "none" and "none" not in options)):
        return None
    if dataclasses.is_dataclass(kind):
        if value == {} or SWITCH.get(str(value).lower()):
            return {}
        raise ValueError(
            f"{value!r} is not a section; write {{}} for its defaults, or set its keys"
        )
    if typing.get_origin(kind) is Literal:
        if value in options:
            return value
        close = difflib.get_close_matches(str(value), options, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ValueError(f"'{value}' is not allowed; {hint}choose from {', '.join(options)}")
    if typing.get_origin(kind) is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        if not values:
            raise ValueError("the list is empty; at least one value")
        return tuple(convert(item, options[0], limits) for item in values)
    if kind is bool:
        switch = SWITCH.get(value.lower()) if isinstance(value, str) else value
        if isinstance(switch, bool):
            return switch
        raise ValueError(f"{value!r} is not a switch; write true or false")
    if kind is str:
        if isinstance(value, str):
            return value
        raise ValueError(f"{value!r} is not a text")
    return _number(value, kind, limits)


def _number(value: Any, kind: type, limits: Mapping[str, float]) -> float:
    what = "whole number" if kind is int else "number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a {what}")
    is_finite = abs(value) < (LARGEST if int in (kind, type(value)) else math.inf)
    if kind is int and not (is_finite and float(value).is_integer()):
        raise ValueError(f"{value!r:.40} is not a whole number")
    if not is_finite:
        raise ValueError(f"{value!r:.40} is not a finite number")
    number: float = kind(value)
    for name, limit in limits.items():
        is_beyond, words = LIMITS[name]
        if is_beyond(number, limit):
            raise ValueError(f"{number:g} is {words} {limit:g}")
    return number


def _assign(given: dict[str, Any], key: str, value: Any) -> None:
    first, *rest = parts = key.split(".")
    alternatives = ALTERNATIVES.get(first, ())
    if rest and rest[0] in alternatives and value is not None:
        others = {other: None for other in alternatives if other != rest[0]}
        given.setdefault(first, {}).update(others)
    section = given
    for part in parts[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
    section[parts[-1]] = value


def _build(section: type, given: Mapping[str, Any]) -> Any:
    """What is not given has its default."""
    hints = _hints(section)
    return section(
        **{
            name: _build(without_none(hints[name])[0], value) if isinstance(value, dict) else value
            for name, value in given.items()
        }
    )


def _contradictions(config: Config) -> Iterator[Fault]:
    """What no single setting can tell."""
    data, warmup, losses = config.data, config.warmup, config.losses
    augments = "set data.augmentation: crop, crop-flip, medium or strong"
    if data.source == "folder" and not data.path:
        needs = "the path of a folder or .tar.gz archive with train/ and test/"
        yield Fault("data.path", f"source 'folder' needs {needs}")
    if data.source.startswith("cifar") and not data.path:
        needs = "the folder that torchvision keeps it in"
        yield Fault("data.path", f"source '{data.source}' needs {needs}")
    # the default is no fault
    if data.channels not in (Data.channels, data.held_channels):
        what = f"the images of source '{data.source}' are {data.held_channels}"
        message = f"'{data.channels}' changes nothing: {what}; leave it out"
        yield Fault("data.channels", message)
    is_gray = data.held_channels == "gray"
    n_channels = 1 if is_gray else 3
    for name in ("mean", "std"):
        n_values = len(getattr(data, name))
        if n_values not in (1, n_channels):
            has = f"{n_channels} channel{'s' * (n_channels > 1)}"
            needs = "write one value" if is_gray else "write 1 or 3 values"
            yield Fault(f"data.{name}", f"has {n_values} values; the images have {has}: {needs}")
    if data.flip_channels and is_gray:
        yield Fault("data.flip_channels", "gray images have no red and blue to swap")
    if data.split == "seed" and not data.drawn:
        why = "and no images are drawn: all that the files hold are used"
        remedy = "set data.imbalance_factor, data.n_max or data.validation, or data.split: fixed"
        yield Fault("data.split", f"seed, {why}; {remedy}")
    if config.encoder.checkpoint:
        yield from _channel_order(config)
    elif config.pretraining.epochs == 0:
        message = "0 leaves the encoder untrained; name an encoder.checkpoint or train it"
        yield Fault("pretraining.epochs", message)
    kinds = (warmup.epochs, warmup.fraction, warmup.plateau)
    if config.method == "joint" and kinds == (None, None, None):
        yield Fault("warmup", "set one of epochs, fraction, plateau")
    if warmup.epochs is not None and warmup.epochs > config.epochs:
        message = f"{warmup.epochs} is more than the {config.epochs} epochs of the trial"
        yield Fault("warmup.epochs", message)
    yield from _plateau(config)
    yield from _optimisers(config)
    has_two_views = config.method == "joint" and losses.consistency
    if has_two_views and not config.mixup and data.augmentation == "none":
        why = f"and both views of an image would be the same; {augments}, or mixup"
        yield Fault("losses.consistency", f"{losses.consistency:g}, {why}")
    batching = {"joint": config.batching, "staged": config.staged.batching}.get(config.method)
    generates = config.method == "joint" and losses.generated
    if losses.logit_adjustment and batching == "balanced" and not generates:
        why = "changes nothing: balanced batches have a uniform prior"
        remedy = "set it to 0, or batching to natural"
        yield Fault("losses.logit_adjustment", f"{losses.logit_adjustment:g} {why}; {remedy}")
    is_trained = config.method not in ("ce", "ce-adjusted")
    if is_trained and config.head.start == "pretrained" and config.head.name != "linear":
        why = f"is the linear head of the pre-training, and head.name is {config.head.name}"
        yield Fault("head.start", f"'pretrained' {why}; choose random, or head.name: linear")
    encodes_augmented = config.method == "staged" and config.staged.encoding.augmented
    if encodes_augmented and data.augmentation == "none":
        why = f"and data.augmentation is none: nothing would differ; {augments}"
        remedy = "or staged.encoding.augmented: false"
        yield Fault("staged.encoding.augmented", f"true, {why}, {remedy}")
    thaws = config.end_to_end and (warmup.plateau or config.longest_warmup < config.epochs)
    is_unit = config.diffusion.scaling == "unit"
    if config.method == "joint" and thaws and is_unit and config.standardisation == "batch":
        why = (
            "does not go with diffusion.scaling: unit: latents would be drawn in other coordinates"
        )
        remedy = "write standardisation: tracked, or diffusion.scaling: standardised"
        yield Fault("standardisation", f"batch {why} than the denoiser learns in; {remedy}")
    n_steps, n_timesteps = config.generation.steps, config.diffusion.steps
    if config.generation.method == "ddim" and n_steps > n_timesteps:
        message = f"{n_steps} is more than the {n_timesteps} of diffusion.steps"
        yield Fault("generation.steps", message)


def _channel_order(config: Config) -> Iterator[Fault]:
    """A checkpoint that was trained on another order of channels than the images are loaded in."""
    data, trained_on = config.data, config.encoder.channels
    swapped = {"rgb": "bgr", "bgr": "rgb", "gray": "gray"}
    loaded = swapped[data.held_channels] if data.flip_channels else data.held_channels
    if trained_on is None:
        message = "a checkpoint needs the channel order that it was trained on: rgb, bgr or gray"
        yield Fault("encoder.channels", message)
    elif trained_on != loaded:
        remedy = (
            f"set data.flip_channels: {str(not data.flip_channels).lower()} "
            "(a swap of red and blue costs many points of accuracy, silently)"
        )
        if "gray" in (trained_on, loaded):
            instead = f", or set data.channels: {trained_on}" if data.source == "folder" else ""
            remedy = f"take an encoder that was trained on {loaded}{instead}"
        what = f"the encoder was trained on {trained_on} and the images are loaded as {loaded}"
        yield Fault("encoder.channels", f"{what}; {remedy}")


def _optimisers(config: Config) -> Iterator[Fault]:
    """Momentum without sgd, steps that do not go together, a ramp from an unknown thaw."""
    optim = config.optim
    uses_sgd = any(optim.of(module).name == "sgd" for module in ("encoder", "head", "denoiser"))
    if optim.nesterov and not (uses_sgd and optim.momentum > 0):
        why = "no module's optimiser is sgd" if not uses_sgd else "optim.momentum is 0"
        yield Fault("optim.nesterov", f"true, and {why}")
    for key, value in (("optim.sam", optim.sam), ("losses.consistency", config.losses.consistency)):
        if value and config.method == "joint" and config.routing == "alternating":
            why = "does not go with routing: alternating, which takes two steps a batch"
            yield Fault(key, f"{value:g} {why}; set it to 0, or another routing")
    if optim.ramp_epochs and config.warmup.plateau is not None:
        why = "a plateau's thaw is not known beforehand"
        yield Fault("optim.ramp_epochs", f"goes with warmup.epochs or warmup.fraction: {why}")


def _plateau(config: Config) -> Iterator[Fault]:
    """A plateau that this trial could not reach, or not leave."""
    plateau, longest = config.warmup.plateau, config.longest_warmup
    if plateau is None or config.method != "joint" or not config.end_to_end:
        return
    if plateau.min_epochs > config.epochs:
        why = f"is more than the {config.epochs} epochs of the trial"
        message = f"{plateau.min_epochs} {why}: the encoder would never thaw"
        yield Fault("warmup.plateau.min_epochs", message)
    elif 2 * plateau.window > longest:
        why = f"two windows are compared, and the warm-up lasts {longest} epochs at most"
        yield Fault("warmup.plateau.window", f"{plateau.window} is too large: {why}")
