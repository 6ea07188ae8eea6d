"""What the folders of a data set must be, and what in it may not be as it was meant. No torch."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from core.data.listing import IMAGE_ENDINGS, PARTS, Listing, Place, shown

# names that a message shows of a list
SHOWN = 5
WHERE = "images belong in train/<class>/ and test/<class>/"
ARCHIVE_ENDINGS = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2")
ENDINGS = ", ".join(sorted(IMAGE_ENDINGS))


def class_names(listing: Listing) -> list[str]:
    """Return the classes, sorted.

    Raises ValueError, with the path and on one line, unless train and test are there, have the same
    classes, and each of these has images; for an image of no class, and for a class whose name
    cannot be printed.
    """
    path = f"'{shown(listing.path)}'"
    missing = [part for part in PARTS if part not in listing.top]
    if missing:
        absent = " and ".join(f"no folder {part}/" for part in missing)
        raise ValueError(f"{absent} in {path}; {_instead_of(missing, listing)}")
    if listing.beside:
        raise ValueError(f"{path}: {_are(listing.beside)} in no class's folder; {WHERE}")
    for folder in sorted("/".join(folder) for folder in listing.folders):
        # Class names stand in tables, one a line.
        if {"Cs", "Cc", "Zl", "Zp"} & set(map(unicodedata.category, folder)):
            what = "holds a character that cannot be printed; rename it"
            raise ValueError(f"{path}: the name of the folder '{shown(folder)}' {what}")
    empty = sorted(listing.folders - {place[:2] for place in listing.images})
    if empty:
        left_out = [place for place in listing.left_out if place[:2] in empty]
        said = f"{path}: no images in {_names('/'.join(folder) + '/' for folder in empty)}"
        if left_out:
            are = "is" if len(left_out) == 1 else "are"
            said += f"; {left_out_by_ending(left_out)} {are} left out, as images end in {ENDINGS}"
        raise ValueError(said)
    train, test = ({label for p, label in listing.folders if p == part} for part in PARTS)
    for part, classes in zip(PARTS, (train, test), strict=True):
        if not classes:
            raise ValueError(f"no images under {part}/<class>/ in {path}")
    if train != test:
        alone = [
            f"{_are(list(map(_quoted, sorted(names))))} in {part}/ alone"
            for part, names in (("train", train - test), ("test", test - train))
            if names
        ]
        groups = [f"{group}: rename one" for group in _look_alikes(train ^ test)[:SHOWN]]
        said = "; ".join([*alone, *(groups or ["a class needs images in both"])])
        raise ValueError(f"{path}: {said}")
    return sorted(train)


def notes(listing: Listing) -> list[str]:
    """What is left out of a sound data set, and what in it may not be as it was meant."""
    found = []
    if left_out := list(listing.left_out):
        files = "1 file is" if len(left_out) == 1 else f"{len(left_out)} files are"
        kinds, first = left_out_by_ending(left_out), shown(left_out[0])
        found.append(f"{files} left out, as images end in {ENDINGS}: {kinds}, such as {first}")
    if deeper := [place for place in listing.images if "/" in place.name]:
        which = f"{len(deeper)}, such as {shown(deeper[0])}"
        found.append(f"images in folders inside a class's folder count for the class: {which}")
    if unread := [f"{name}/" for name in listing.top if name not in PARTS and _meant_for(name)]:
        found.append(f"{_are(unread)} not read; {WHERE}")
    found += [
        f"the classes {group}" for group in _look_alikes(label for _, label in listing.folders)
    ]
    return found


def left_out_by_ending(left_out: Collection[Place]) -> str:
    """`3 .tif, 1 without ending`, the most frequent first."""
    counts = Counter(place.ending for place in left_out).most_common()
    said = [f"{n} {_ending(ending)}" for ending, n in counts[:SHOWN]]
    rest = sum(n for _, n in counts[SHOWN:])
    return ", ".join(said + ([f"{rest} others"] if rest else []))


def _ending(ending: str) -> str:
    if not ending:
        return "without ending"
    return shown(ending) if ending == ending.strip() else repr(ending)


def _meant_for(name: str) -> str | None:
    """Return the part that a folder of this name may be meant for."""
    plain = name.strip().casefold()
    for part, starts in (("train", ("train",)), ("test", ("test", "val", "eval"))):
        if plain.startswith(starts) or plain.endswith(part):
            return part
    return None


def _instead_of(missing: Sequence[str], listing: Listing) -> str:
    """Say what there is in place of the parts that are missing."""
    hints = []
    for part in missing:
        there = [f"{n}/" for n in listing.top if n not in PARTS and _meant_for(n) == part]
        if there:
            are, which = ("is", "it") if len(there) == 1 else ("are", "one of them")
            hints.append(f"there {are} {_names(there)}: rename {which} to {part}/")
    if not hints and len(missing) == len(PARTS) and (elsewhere := _elsewhere(listing.path)):
        return elsewhere
    folders = _names(f"{name}/" for name in listing.top) if listing.top else "no folders"
    return "; ".join(hints) or f"it holds {folders}; {WHERE}"


def _elsewhere(path: Path) -> str:
    """What to set data.path to where train/ is above or below the folder that it names."""
    if path.is_file():
        return ""
    near = [above for above in path.parents[:2] if all((above / part).is_dir() for part in PARTS)]
    near = near or sorted(
        folder.parent
        for depth in ("*", "*/*")
        for folder in path.glob(f"{depth}/train")
        if folder.is_dir()
    )
    if near:
        which = "this folder" if len(near) == 1 else "one of these"
        return f"train/ is in {_names(map(_quoted, near))}: set data.path to {which}"
    archives = [_quoted(file) for file in path.iterdir() if file.name.endswith(ARCHIVE_ENDINGS)]
    return f"it holds {_names(sorted(archives))}: set data.path to an archive" if archives else ""


def _look_alikes(names: Iterable[str]) -> list[str]:
    """Names that a reader may take for one: they differ in case, outer spaces or Unicode form."""
    groups = defaultdict(list)
    for name in sorted(set(names)):
        groups[unicodedata.normalize("NFC", name).strip().casefold()].append(ascii(name))
    return [f"{_names(group)} look alike" for group in groups.values() if len(group) > 1]


def _quoted(name: object) -> str:
    return f"'{name}'"


def _names(names: Iterable[str]) -> str:
    """`a, b and c`, the first few of them."""
    every = [shown(name) for name in names]
    *first, last = every if len(every) <= SHOWN else [*every[:SHOWN], f"{len(every) - SHOWN} more"]
    return f"{', '.join(first)} and {last}" if first else last


def _are(names: Sequence[str]) -> str:
    return f"{_names(names)} {'is' if len(names) == 1 else 'are'}"
