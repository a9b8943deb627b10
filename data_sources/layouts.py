"""Which files of a folder or zip are the examples of a split, and what their labels are.

    train/cat/*.png   train/dog/*.png   ...   test/cat/*.png   ...

Labels count the class names of all splits in alphabetical order. A split folder may also hold its
images directly: all of them have label 0 then. The test split may be called `val`. Three more
layouts know no splits, and their images serve as both: images at the top, class folders at the top,
and images anywhere below a file `dataset.json` with their labels, {"labels":
[["00000/img00000000.png", 6], ...]} or null for none, as StyleGAN's and EDM's zips have it. In a
zip, one folder may hold all of this.

Files of other kinds than those of `SUFFIXES` and hidden files are passed over. The classes take
turns, so that a batch in order has all of them and not the first alone.
"""

import json
from collections import Counter
from collections.abc import Iterator

from scorax.data_sources.arrays import SPLIT_NAMES
from scorax.data_sources.files import Files, Zip

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LABELS = "dataset.json"

Examples = list[tuple[str, int]]  # path inside the folder or zip, label


def list_examples(files: Files, split: str, missing: str) -> tuple[list[str], Examples]:
    """Returns the class names, [""] without classes, and the examples of a split.

    Args:
      files: a folder or zip.
      split: "train" or "test".
      missing: ends the message of a missing split: what to do.

    Raises:
      ValueError: if the split or its images are missing, or labels and images do not fit.
    """
    top = _top(files)
    folders, names = files.list(top)
    present = [n for split_names in SPLIT_NAMES.values() for n in split_names if n in folders]
    if not present and LABELS in names:
        return [""], _labelled_examples(files, top)
    if not present and (images := _images(files, top)):
        return [""], [(path, 0) for path in images]
    if not present and any(_images(files, _join(top, folder)) for folder in folders):
        return _split_examples(files, top, folders)
    name = next((name for name in SPLIT_NAMES[split] if name in present), None)
    if name is None:
        wanted = " or ".join(SPLIT_NAMES[split])
        raise ValueError(f"the image folder '{files.name(top)}' has no folder {wanted}; {missing}")
    classes = sorted({c for n in present for c in files.list(_join(top, n))[0]})
    return _split_examples(files, _join(top, name), classes)


def _top(files: Files) -> str:
    """Returns the folder of a zip that holds all of it; otherwise "", the top itself."""
    top = ""
    while isinstance(files, Zip):
        folders, names = files.list(top)
        splits = {name for split_names in SPLIT_NAMES.values() for name in split_names}
        if len(folders) != 1 or folders[0] in splits or LABELS in names or _images(files, top):
            break
        top = _join(top, folders[0])
    return top


def _split_examples(files: Files, root: str, classes: list[str]) -> tuple[list[str], Examples]:
    """Returns the class names and the examples of a split folder."""
    folders, _ = files.list(root)
    direct = _images(files, root)
    if direct and folders:
        raise ValueError(
            f"'{files.name(root)}' holds both images ({direct[0].rpartition('/')[2]}) and class "
            f"folders ({folders[0]}); move its images into class folders"
        )
    if direct:
        return [""], [(path, 0) for path in direct]
    examples = []
    for label, name in enumerate(classes):
        if name not in folders:
            continue
        paths = _images(files, _join(root, name))
        if not paths:
            raise ValueError(
                f"'{files.name(_join(root, name))}' holds no image; put {', '.join(SUFFIXES)} "
                "files there or remove it"
            )
        examples += [(path, label) for path in paths]
    if not examples:
        raise ValueError(
            f"'{files.name(root)}' holds no image; put class folders with {', '.join(SUFFIXES)} "
            "files there"
        )
    return classes, _in_turns(examples)


def _labelled_examples(files: Files, top: str) -> Examples:
    """Returns the images below `top` with the labels of its dataset.json."""
    name = files.name(_join(top, LABELS))
    images = list(_walk(files, top))
    if not images:
        raise ValueError(f"there is no image beside {name}; put {', '.join(SUFFIXES)} files there")
    try:
        with files.open(_join(top, LABELS)) as file:
            labels = json.load(file)["labels"]
        if labels is None:
            return [(path, 0) for path in images]
        labels = {_join(top, path): label for path, label in labels}
        if not all(type(label) is int and label >= 0 for label in labels.values()):
            raise ValueError("a label is no whole number")
    except Exception as error:  # whatever a file of another form leads to
        raise ValueError(
            f"{name} cannot be read as labels ({error}); write "
            '{"labels": [["00000/img00000000.png", 6], ...]} or {"labels": null}'
        ) from error
    if single := sorted(set(images) ^ set(labels)):
        raise ValueError(
            f"{files.name(single[0])} is not both an image that is there and a row of {name}; "
            "pack the images again"
        )
    return _in_turns(list(labels.items()))


def _in_turns(examples: Examples) -> Examples:
    """Returns examples, sorted within each label, so that the labels take turns."""
    seen: Counter[int] = Counter()
    turns = []
    for path, label in examples:
        turns.append((seen[label], label, path))
        seen[label] += 1
    return [(path, label) for _, label, path in sorted(turns)]


def _walk(files: Files, folder: str) -> Iterator[str]:
    """Yields the images in a folder and below it."""
    yield from _images(files, folder)
    for name in files.list(folder)[0]:
        yield from _walk(files, _join(folder, name))


def _images(files: Files, folder: str) -> list[str]:
    """Returns the paths of the images in a folder, sorted."""
    names = files.list(folder)[1]
    return [_join(folder, name) for name in names if name.lower().endswith(SUFFIXES)]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
