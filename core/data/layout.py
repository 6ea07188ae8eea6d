"""What the folders of a data set must be, and what in it may not be as it was meant. No torch."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from core.data.listing import IMAGE_ENDINGS, PARTS, Listing, Place, alike, shown

SHOWN = 5  # names of a list of them
WHERE = "images belong in train/<class>/ and test/<class>/"
ARCHIVE_ENDINGS = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2")
ENDINGS = ", ".join(sorted(IMAGE_ENDINGS))

DIFFERENCES: tuple[tuple[str, Callable[[str], str], Callable[[str], str]], ...] = (
    ("in Unicode form", lambda name: unicodedata.normalize("NFC", name), ascii),
    ("in case", str.casefold, repr),
    ("in spaces around them", str.strip, repr),
)
"""In what names that look alike differ: its name, a name without it, a name that shows it."""


def class_names(listing: Listing) -> list[str]:
    """The classes, sorted.

    Raises ValueError, with the path and on one line, unless train and test are there, have the same
    classes, and each of these has images; for an image of no class, and for a class whose name
    cannot be printed.
    """
    path = f"'{shown(listing.path)}'"
    _require_parts(listing, path)
    if listing.beside:
        raise ValueError(f"{path}: {_are(listing.beside)} in no class's folder; {WHERE}")
    for part, label in sorted(listing.folders):
        _require_printable(path, part, label)
    train, test = (_classes(listing, part) for part in PARTS)
    for part, classes in zip(PARTS, (train, test)):
        if not classes:
            left_out = [place for place in listing.left_out if place.part == part]
            raise ValueError(f"no images under {part}/<class>/ in {path}{_instead(left_out)}")
    _require_filled(listing, path)
    if train != test:
        raise ValueError(f"{path}: {_differing(train - test, test - train)}")
    return sorted(train)


def notes(listing: Listing) -> list[str]:
    """What is left out of a sound data set, and what in it may not be as it was meant."""
    found = []
    left_out = list(listing.left_out)
    if left_out:
        files = "1 file is" if len(left_out) == 1 else f"{len(left_out)} files are"
        by_class = _by_class(left_out, left_out_by_ending)
        found.append(f"{files} left out, as images end in {ENDINGS}: {by_class}")
    deeper = [place for place in listing.images if place.is_deeper]
    if deeper:
        by_class = _by_class(deeper, lambda places: str(len(places)))
        found.append(f"images in folders inside a class's folder count for the class: {by_class}")
    unread = [f"{name}/" for name in listing.top if name not in PARTS and alike(name)]
    if unread:
        found.append(f"{_are(unread)} not read; {WHERE}")
    for group, what in _look_alikes({label for _, label in listing.folders}):
        found.append(f"the classes {group} differ {what} only")
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


def _classes(listing: Listing, part: str) -> set[str]:
    return {place.label for place in listing.images if place.part == part}


def _require_parts(listing: Listing, path: str) -> None:
    missing = [part for part in PARTS if part not in listing.top]
    if not missing:
        return
    hints = []
    for part in missing:
        there = [f"{name}/" for name in listing.top if name not in PARTS and alike(name) == part]
        if len(there) == 1:
            hints.append(f"there is {_names(there)}: rename it to {part}/")
        elif there:
            hints.append(f"there are {_names(there)}: rename one of them to {part}/")
    if not hints and len(missing) == len(PARTS):
        hints = _elsewhere(listing.path)
    if not hints:
        there = [f"{name}/" for name in listing.top]
        hints = [f"it holds {_names(there) if there else 'no folders'}; {WHERE}"]
    absent = " and ".join(f"no folder {part}/" for part in missing)
    raise ValueError(f"{absent} in {path}; {'; '.join(hints)}")


def _elsewhere(path: Path) -> list[str]:
    """What to set data.path to where train/ is above or below the folder that it names."""
    if path.is_file():
        return []
    near = [above for above in path.parents[:2] if all((above / part).is_dir() for part in PARTS)]
    if not near:
        below = (folder for depth in ("*", "*/*") for folder in path.glob(f"{depth}/train"))
        near = sorted({folder.parent for folder in below if folder.is_dir()})
    if not near:
        files = sorted(path.iterdir())
        archives = [f"'{file}'" for file in files if file.name.endswith(ARCHIVE_ENDINGS)]
        return [f"it holds {_names(archives)}: set data.path to an archive"] if archives else []
    folders = _names(f"'{folder}'" for folder in near)
    which = "this folder" if len(near) == 1 else "one of these"
    return [f"train/ is in {folders}: set data.path to {which}"]


def _require_printable(path: str, part: str, label: str) -> None:
    """Class names stand in tables, one a line."""
    categories = set(map(unicodedata.category, label))
    if "Cs" in categories:
        what = "is not UTF-8"
    elif categories & {"Cc", "Zl", "Zp"}:
        what = "holds a line break or another control character"
    else:
        return
    raise ValueError(f"{path}: the name of the folder '{part}/{shown(label)}' {what}; rename it")


def _require_filled(listing: Listing, path: str) -> None:
    empty = sorted(listing.folders - {place[:2] for place in listing.images})
    if not empty:
        return
    part, label = empty[0]
    others = [f"{'/'.join(folder)}/" for folder in empty[1:]]
    left_out = [place for place in listing.left_out if place[:2] == empty[0]]
    said = f"{path}: the folder {part}/{shown(label)}/ of class '{shown(label)}' holds no images"
    more = f"; nor {'does' if len(others) == 1 else 'do'} {_names(others)}" if others else ""
    raise ValueError(f"{said}{_instead(left_out)}{more}")


def _instead(left_out: Collection[Place]) -> str:
    if not left_out:
        return ""
    are = "is" if len(left_out) == 1 else "are"
    return f"; {left_out_by_ending(left_out)} {are} left out, as images end in {ENDINGS}"


def _differing(train: set[str], test: set[str]) -> str:
    """The classes in one part alone, and which of these may be meant for the same."""
    alone = []
    for part, names in zip(PARTS, (train, test)):
        if names:
            quoted = [f"'{name}'" for name in sorted(names)]
            alone.append(f"{_are(quoted)} in {part}/ alone")
    groups = list(_look_alikes(train | test))[:SHOWN]
    hints = [f"{group} differ {what} only: rename one" for group, what in groups]
    return "; ".join([*alone, *hints, "a class needs images in both"])


def _look_alikes(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names that a reader may take for one, as messages give them, and in what they differ."""
    for what, plain, written in DIFFERENCES:
        groups = defaultdict(list)
        for name in sorted(names):
            groups[plain(name)].append(written(name))
        yield from ((_names(group), what) for group in groups.values() if len(group) > 1)


def _by_class(places: Sequence[Place], said: Callable[[list[Place]], str]) -> str:
    """`train/cat 3 .tif, test/dog 1 .gif`: what is said of the places of each class's folder."""
    folders = defaultdict(list)
    for place in places:
        folders[place[:2]].append(place)
    first = list(folders.items())[:SHOWN]
    listed = [f"{shown('/'.join(folder))}: {said(inner)}" for folder, inner in first]
    rest = len(folders) - SHOWN
    return "; ".join(listed + ([f"{rest} more folders"] if rest > 0 else []))


def _names(names: Iterable[str]) -> str:
    """`a, b and c`, the first few of them."""
    every = [shown(name) for name in names]
    *first, last = every if len(every) <= SHOWN else [*every[:SHOWN], f"{len(every) - SHOWN} more"]
    return f"{', '.join(first)} and {last}" if first else last


def _are(names: Sequence[str]) -> str:
    return f"{_names(names)} {'is' if len(names) == 1 else 'are'}"
