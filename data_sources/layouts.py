"""The layouts of image folders and zips: which files belong to a split, and their labels.

    train/cat/*.png   train/dog/*.png   ...   test/cat/*.png   ...

Labels number the class names of all splits in alphabetical order, so that the class 10 comes before
the class 2. Images may lie at any depth below their class. A split folder may also hold its images
directly; then all labels are 0. `SPLIT_NAMES` lists the names of split folders.

Three more layouts have no splits, so the same images serve as both splits: images at the top, class
folders at the top, and images anywhere below a file `dataset.json` that holds their labels, as in
the zips of StyleGAN and EDM: {"labels": [["00000/img00000000.png", 6], ...]}, or null for no
labels. A single folder may hold everything.

A layout in which images would be passed over is refused. Hidden files are ignored; files whose
suffix is not in `SUFFIXES` are counted in `Listing.left_out`. The classes alternate, so that
consecutive examples come from all classes.
"""

import dataclasses
import json
from collections import Counter

from scorax.data_sources.arrays import SPLIT_NAMES
from scorax.data_sources.files import Files, Zip

# The suffixes of formats that PIL reads as a raster of pixels; of an animation, the first frame.
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".jp2", ".j2k", ".avif"),
    *(".pcx", ".sgi", ".qoi", ".psd"),
)
LABELS = "dataset.json"
_SHOWN = ", ".join(SUFFIXES[:3]) + ", ... files"

Examples = list[tuple[str, int]]  # path inside the folder or zip, label


@dataclasses.dataclass
class Listing:
    """The images of a split.

    Attributes:
      classes: the class names; [""] if there are no classes.
      examples: path and label of each image.
      has_splits: whether the folder holds splits; otherwise its images serve as both.
      left_out: suffix -> number of files that are no images.
      unused: images and folders of images that belong to no split.
    """

    classes: list[str]
    examples: Examples
    has_splits: bool = False
    left_out: Counter = dataclasses.field(default_factory=Counter)
    unused: list[str] = dataclasses.field(default_factory=list)

    def describe_rest(self) -> str:
        """What is not used, in words; "" if everything is."""
        kinds = [f"{n} {suffix}" for suffix, n in sorted(self.left_out.items())]
        parts = [f"files that are no images ({', '.join(kinds)})"] if kinds else []
        return ", ".join(parts + self.unused)


def list_examples(files: Files, split: str, missing: str) -> Listing:
    """Returns the images of a split.

    Args:
      files: a folder or zip.
      split: "train" or "test".
      missing: end of the message about a missing split: what to do.

    Raises:
      ValueError: if the split or its images are missing, labels and images do not match, or images
        would be passed over.
    """
    return _Lister(files).find(split, missing)


class _Lister:
    """Walks through the folders of one data set, and counts what is no image."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._below: dict[str, list[str]] = {}  # folder -> images at any depth
        self._left_out: dict[str, str] = {}  # path -> suffix

    def find(self, split: str, missing: str) -> Listing:
        found = self._list("", split, missing)
        found.left_out = Counter(self._left_out.values())
        return found

    def _list(self, top: str, split: str, missing: str) -> Listing:
        folders, names = self._files.list(top)
        splits = self._splits(top, folders)
        if not splits and LABELS in names:
            return Listing([""], _labelled_examples(self._files, top, self._images_below(top)))
        direct = self._images(top)
        if not splits and direct:
            if full := [f for f in folders if self._images_below(_join(top, f))]:
                raise self._both(top, direct, full)
            return Listing([""], [(path, 0) for path in direct])
        others = [f for f in folders if not _split_of(f)]
        full = [f for f in others if self._images_below(_join(top, f))]
        if not splits and len(folders) == 1 and self._holds_all(_join(top, folders[0])):
            return self._list(_join(top, folders[0]), split, missing)
        if not splits and full:
            return self._split_examples(top, folders)
        if splits and full:
            raise ValueError(
                f"'{self._files.name(top)}' holds the split folder {next(iter(splits.values()))} "
                f"beside other folders of images ({', '.join(full[:3])}); if it is a class, move "
                "all class folders into a folder train, otherwise move the other folders away"
            )
        if split not in splits:
            wanted = "train" if split == "train" else "test or val"
            where = self._files.name(top)
            raise ValueError(f"the image folder '{where}' has no folder {wanted}; {missing}")
        roots = [_join(top, name) for name in splits.values()]
        classes = sorted({c for root in roots for c in self._files.list(root)[0]})
        found = self._split_examples(_join(top, splits[split]), classes)
        found.has_splits = True
        if direct:
            found.unused = [f"{len(direct)} images beside the split folders ({direct[0]})"]
        used = set(splits.values())
        found.unused += [f"the folder {f}" for f in folders if _split_of(f) and f not in used]
        return found

    def _splits(self, top: str, folders: list[str]) -> dict[str, str]:
        """The folder of each split, of several the best one."""
        found: dict[str, list[str]] = {}
        for folder in folders:
            if split := _split_of(folder):
                found.setdefault(split, []).append(folder)
        for split, same in found.items():
            same.sort(key=lambda name, names=SPLIT_NAMES[split]: names.index(name.lower()))
            if split == "train" and len(same) > 1:
                raise ValueError(
                    f"'{self._files.name(top)}' holds {' and '.join(same)}, two folders of the "
                    "training split; move the images into one of them"
                )
        return {split: same[0] for split, same in found.items()}

    def _holds_all(self, folder: str) -> bool:
        """Whether a single folder is not a class, but holds splits, classes or all of a zip."""
        folders, names = self._files.list(folder)
        if isinstance(self._files, Zip) or LABELS in names:
            return True
        return not self._images(folder) and any(
            self._images_below(_join(folder, f)) for f in folders
        )

    def _split_examples(self, root: str, classes: list[str]) -> Listing:
        """The images of a split folder; every class folder holds images."""
        folders, _ = self._files.list(root)
        direct = self._images(root)
        if direct and folders:
            raise self._both(root, direct, folders)
        if direct:
            return Listing([""], [(path, 0) for path in direct])
        examples = []
        for label, name in enumerate(classes):
            if name not in folders:
                continue
            paths = self._images_below(_join(root, name))
            if not paths:
                raise ValueError(
                    f"'{self._files.name(_join(root, name))}' holds no image; put {_SHOWN} there "
                    "or remove it"
                )
            examples += [(path, label) for path in paths]
        if not examples:
            raise ValueError(
                f"'{self._files.name(root)}' holds no image; put class folders with {_SHOWN} there"
            )
        return Listing(classes, _in_turns(examples))

    def _both(self, root: str, direct: list[str], folders: list[str]) -> ValueError:
        return ValueError(
            f"'{self._files.name(root)}' holds both images ({direct[0].rpartition('/')[2]}) and "
            f"class folders ({folders[0]}); move its images into class folders, or elsewhere"
        )

    def _images(self, folder: str) -> list[str]:
        """The paths of the images in a folder, sorted."""
        images = []
        for name in self._files.list(folder)[1]:
            if name.lower().endswith(SUFFIXES):
                images.append(_join(folder, name))
            elif name != LABELS:
                suffix = f".{name.rpartition('.')[2].lower()}" if "." in name else "without suffix"
                self._left_out[_join(folder, name)] = suffix
        return images

    def _images_below(self, folder: str) -> list[str]:
        """The paths of the images in a folder and its subfolders."""
        if folder not in self._below:
            found = self._images(folder)
            for name in self._files.list(folder)[0]:
                found += self._images_below(_join(folder, name))
            self._below[folder] = found
        return self._below[folder]


def _split_of(folder: str) -> str | None:
    """The split that a folder is named after."""
    return next((split for split, names in SPLIT_NAMES.items() if folder.lower() in names), None)


def _labelled_examples(files: Files, top: str, images: list[str]) -> Examples:
    """Returns the images below `top` with the labels of its dataset.json."""
    name = files.name(_join(top, LABELS))
    if not images:
        raise ValueError(f"there is no image beside {name}; put {_SHOWN} there")
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


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
