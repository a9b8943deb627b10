"""The layouts of image folders and zips: which files belong to a split, and their labels.

    train/cat/*.png   train/dog/*.png   ...   test/cat/*.png   ...

Labels number the class names of all splits in alphabetical order. A split folder may also hold its
images directly; then all labels are 0. The test split may be called `val`.

Three more layouts have no splits, so the same images serve as both splits: images at the top, class
folders at the top, and images anywhere below a file `dataset.json` that holds their labels, as in
the zips of StyleGAN and EDM: {"labels": [["00000/img00000000.png", 6], ...]}, or null for no
labels. In a zip, a single folder may hold everything.

Hidden files, and files whose suffix is not in `SUFFIXES`, are ignored. The classes alternate, so
that consecutive examples come from all classes.
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
    """Returns the class names ([""] if there are no classes) and the examples of a split.

    Args:
      files: a folder or zip.
      split: "train" or "test".
      missing: end of the message about a missing split: what to do.

    Raises:
      ValueError: if the split or its images are missing, or labels and images do not match.
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
    """Returns the single folder that holds everything in a zip, or "" (the top) without one."""
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
    except Exception as error:  # a file of another form can cause many types
        raise ValueError(
            f"{name} cannot be read as labels ({error}); write "
            '{"labels": [["00000/img00000000.png", 6], ...]} or {"labels": null}'
        ) from error
    if single := sorted(set(images) ^ set(labels)):
        raise ValueError(
            f"{files.name(single[0])} is not both an image that exists and a row of {name}; "
            "pack the images again"
        )
    return _in_turns(list(labels.items()))


def _in_turns(examples: Examples) -> Examples:
    """Returns the examples in an order in which the labels alternate."""
    seen: Counter[int] = Counter()
    turns = []
    for path, label in examples:
        turns.append((seen[label], label, path))
        seen[label] += 1
    return [(path, label) for _, label, path in sorted(turns)]


def _walk(files: Files, folder: str) -> Iterator[str]:
    """Yields the images in a folder and its subfolders."""
    yield from _images(files, folder)
    for name in files.list(folder)[0]:
        yield from _walk(files, _join(folder, name))


def _images(files: Files, folder: str) -> list[str]:
    """Returns the paths of the images in a folder, sorted."""
    names = files.list(folder)[1]
    return [_join(folder, name) for name in names if name.lower().endswith(SUFFIXES)]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
