"""Two folders of photos in ten classes, for `photos.py`, made of the real images in ../shared/data.

    python benchmarks/photo_sets.py FOLDER [--data ../shared/data] [--wordnet data.noun]

`cifar10`: of CIFAR-10, 500 training and 250 test images of each class, the first by name, enlarged
from 32 to 96 pixels (bicubic).

`coarse`: the 1000 images of `imagenet_samples`, one of each ImageNet class, with a short side of
128 pixels. ImageNet's classes are nouns of WordNet 3.0 (Miller, 1995), and an image's coarse
class is the first of GROUPS that its noun is a kind of. COARSE has the answer for every class, in
the order of their ids; `--wordnet` derives it anew from WordNet's own file (`data.noun`; Debian's
package `wordnet-base`), and says where it differs. Every fifth image of a class is for the test.
They are *training* images of ImageNet: weights that were trained on it have seen them.
"""

from __future__ import annotations

import argparse
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from onceforall.progress import say

GROUPS: Mapping[str, str] = {  # coarse class -> WordNet 3.0's number of the noun that it is
    "bird": "01503061",
    "dog": "02084071",
    "mammal": "01861778",
    "animal": "00015388",  # fish, reptiles, amphibians, insects, shells, ...
    "vehicle": "03100490",  # "conveyance"
    "structure": "04341686",
    "covering": "03122748",  # clothes, most of them
    "device": "03183080",
    "artifact": "00021939",  # containers, furniture, tools, ...
    "nature": "00001740",  # "entity", so what is left: food, plants, landscapes, a few others
}
COARSE = (  # of the 1000 classes in the order of their ids: which of GROUPS
    "33333330000000000000000003333333333333333333333333333333333333333333333333333333"
    "00000000000000000000022222233333333333333333333000000000000000000002222111111111"
    "11111111111111111111111111111111111111111111111111111111111111111111111111111111"
    "11111111111111111111111111111222222222222222222222222222222233333333333333333333"
    "33333333332222222222222222222222222222222222222222222222222222222222233333333376"
    "67744454475687858486758855784888768845868868466765466856765656887645487748677887"
    "78854878856788786558566888577544876687688888658786778887546687888774888868446878"
    "64588478646784844767555778488778777786557684788764684766768678685474486877578866"
    "67768788857868464468448584865644577477786757777786478877765788887458588888765478"
    "88874885858888468887767577788864878784788757788887687866767445778676568486676875"
    "77448867688748478478457765777448546777858667778488888666786858754544864475478576"
    "47886876578878848888887666687888544578899699999999999999999999999999999999999999"
    "9999999999999999999999999999999999999999"
)
SETS = ("cifar10", "coarse")
OF_CIFAR = {"train": 500, "test": 250}  # images of a class
CIFAR_SIZE = 96  # pixels
COARSE_SIZE = 128  # of the short side
EVERY = 5  # one in so many of a coarse class is for the test
QUALITY = 95  # of JPEG
BICUBIC = Image.Resampling.BICUBIC


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--wordnet", type=Path, help="its file data.noun")
    given = parser.parse_args()
    for name in SETS:
        say(f"{make(name, given.folder, given.data)}: is there")
    if given.wordnet is not None:
        ids = sorted(p.name for p in (given.data / "imagenet_samples" / "val").iterdir())
        found = derived(ids, given.wordnet)
        wrong = [f"{i}: {f}" for i, c, f in zip(ids, COARSE, found, strict=True) if c != f]
        say(f"{given.wordnet}: {len(ids) - len(wrong)} of {len(ids)} as in COARSE {wrong or ''}")


def make(name: str, folder: Path, data: Path) -> Path:
    """The folder of a set, made if it is not there: `train/CLASS/*.jpg`, `test/CLASS/*.jpg`."""
    target = folder / name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        made = Path(place) / name
        {"cifar10": _cifar, "coarse": _coarse}[name](made, data)
        shutil.move(made, target)
    return target


def _cifar(made: Path, data: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        with tarfile.open(data / "cifar10" / "cifar10.tar.xz") as archive:
            archive.extractall(place, filter="data")
        for part, most in OF_CIFAR.items():
            for group in sorted((Path(place) / part).iterdir()):
                for path in sorted(group.iterdir())[:most]:
                    with Image.open(path) as image:
                        large = image.convert("RGB").resize((CIFAR_SIZE, CIFAR_SIZE), BICUBIC)
                    _save(large, made / part / group.name / f"{path.stem}.jpg")


def _coarse(made: Path, data: Path) -> None:
    names, seen = list(GROUPS), dict.fromkeys(GROUPS, 0)
    classes = sorted((data / "imagenet_samples" / "val").iterdir())
    for folder, number in zip(classes, COARSE, strict=True):
        group = names[int(number)]
        for path in sorted(folder.iterdir()):
            part = "train" if seen[group] % EVERY else "test"
            seen[group] += 1
            with Image.open(path) as image:
                scale = COARSE_SIZE / min(image.size)
                width, height = (round(side * scale) for side in image.size)
                small = image.convert("RGB").resize((width, height), BICUBIC)
            _save(small, made / part / group / f"{folder.name}.jpg")


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=QUALITY)


def derived(ids: list[str], nouns: Path) -> str:
    """COARSE, from WordNet's file: a line a noun, "number ... count words... count pointers... |",
    in which the pointers `@` and `@i` lead to what it is a kind of."""
    above: dict[str, list[str]] = {}
    for line in nouns.read_text("latin-1").splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields = line.split(" | ")[0].split()
        at = 4 + 2 * int(fields[3], 16)
        pointers = [fields[at + 1 + 4 * i : at + 3 + 4 * i] for i in range(int(fields[at]))]
        above[fields[0]] = [number for kind, number in pointers if kind in ("@", "@i")]

    def kinds(number: str) -> set[str]:
        return {number}.union(*(kinds(other) for other in above[number]))

    found = ""
    for name in ids:
        mine = kinds(name.removeprefix("n"))
        found += str(next(i for i, number in enumerate(GROUPS.values()) if number in mine))
    return found


if __name__ == "__main__":
    main()
