"""`ablate data`: download data sets, describe and verify images, unpack an archive of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ablation.errors import InputError, Problem
from ablation.grid.load import experiment_settings, yaml_path


def list_data() -> str:
    """List the data sets that can be downloaded, and which of their files are here."""
    from ablation.grid.sources import described
    from core.data.location import data_root

    return described(data_root())


def get_data(name: str, say: Callable[[str], object]) -> None:
    """Download a data set, reporting progress to `say`."""
    from ablation.grid.sources import get
    from core.data.location import data_root

    get(name, data_root(), say)


def describe_data(experiment: Path, overrides: Sequence[str]) -> str:
    """Class counts, shape, channel order and fingerprint, as text."""
    from core.trial.inspection import describe

    config, dataset = _load(experiment, overrides)
    found = describe(config, dataset)
    width = max(len(name) for name in found.class_names)
    path = f", {config.data.path}" if config.data.path else ""
    sizes = f"{sum(found.train_counts)} / {sum(found.test_counts)}"
    lines = [
        f"source         {config.data.source}{path}",
        f"fingerprint    {found.fingerprint}",
        f"images         {' x '.join(map(str, found.shape))}, channels as {found.channels}",
        f"train / test   {sizes}, imbalance factor {found.imbalance_factor:.4g}",
        *(f"note           {note}" for note in found.notes),
        "",
        f"{'class':{width}}  train   test",
    ]
    for row in zip(found.class_names, found.train_counts, found.test_counts, strict=True):
        lines.append(f"{row[0]:{width}} {row[1]:6} {row[2]:6}")
    return "\n".join(lines)


def verify_data(experiment: Path, overrides: Sequence[str]) -> tuple[str, bool]:
    """Findings as text, and whether a study on this data would be sound."""
    from core.trial.inspection import verify

    config, dataset = _load(experiment, overrides)
    findings = verify(config, dataset)
    lines = [f"{'FAULT' if finding.is_fault else 'note '}  {finding.text}" for finding in findings]
    n_images = len(dataset.train.labels) + len(dataset.test.labels)
    is_sound = not any(finding.is_fault for finding in findings)
    return "\n".join([*lines, f"{n_images} images read"]), is_sound


def unpack_data(archive: Path, folder: Path) -> str:
    """Unpack train/<class>/* and test/<class>/* of a tar archive into `folder`, and nothing else.

    Files that are no images by name are unpacked with the others; hidden ones are not. Raises
    InputError for an archive that cannot be read, or whose images no study could use; then nothing
    has been unpacked.
    """
    from core.data.layout import class_names, left_out_by_ending
    from core.data.listing import DAMAGED, listed, shown, unpacked

    path = shown(archive)
    if not archive.is_file():
        raise InputError([Problem("", path, "is not a file")])
    try:
        listing = listed(archive)
        class_names(listing)
        for place, content in unpacked(listing, {**listing.images, **listing.left_out}):
            _write(folder, place, content)
    except DAMAGED as error:
        raise InputError([Problem("", path, f"cannot be read ({_line(error)})")]) from None
    except ValueError as error:
        raise InputError([Problem("", "", _line(error))]) from None
    done = f"{len(listing.images)} images in {folder}"
    if not listing.left_out:
        return done
    return f"{done}, and files that are read as no images: {left_out_by_ending(listing.left_out)}"


def _write(folder: Path, parts: Sequence[str], content: bytes) -> None:
    from core.data.listing import shown

    target = folder.joinpath(*parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    except OSError as error:
        problem = f"cannot be written: {error.strerror} ({shown(error.filename)})"
        raise InputError([Problem("", str(folder), problem)]) from None


def _load(experiment: Path, overrides: Sequence[str]) -> tuple[Any, Any]:
    """The experiment's configuration and its images."""
    from ablation.subject.loading import load_subject
    from core.config.parsing import parse
    from core.data.listing import DAMAGED
    from core.trial.inspection import load

    settings = experiment_settings(yaml_path(experiment), overrides, load_subject("core"))
    config, _ = parse(settings)
    try:
        return config, load(config)
    except ValueError as error:
        said = _line(error)
    except (RuntimeError, *DAMAGED) as error:
        # RuntimeError is torchvision's of what is not CIFAR.
        said = f"'{config.data.path}' cannot be read: {_line(error)}"
    raise InputError([Problem(experiment.name, "settings.data.path", said)])


def _line(error: Exception) -> str:
    """What it says, on one line."""
    return " ".join(str(error).split())
