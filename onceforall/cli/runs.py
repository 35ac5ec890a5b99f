"""Options that name a supernet and the images it is scored on: the folder of a training run, or a
family with weights of anybody's, whose records are in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onceforall.cli import completing
from onceforall.cli.nets import numbers
from onceforall.errors import InputError

if TYPE_CHECKING:
    from onceforall.pipeline import Run
    from onceforall.supernet import SuperNet

RunOrSpace = Annotated[
    str,
    typer.Argument(
        metavar="RUN|S",
        help="The folder of a training run; or a family, with --weights and --data.",
        show_default=False,
        autocompletion=completing.families,
    ),
]
SupernetWeights = Annotated[
    Path | None,
    typer.Option(
        metavar="W",
        help="Of a supernet that was trained elsewhere, in any format.",
        show_default=False,
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="D",
        help="Another data set than the run's; with --weights, to calibrate and score on.",
        show_default=False,
        autocompletion=completing.data,
    ),
]
Mean = Annotated[
    str | None, typer.Option(help="With --weights: how pixels are normalised; else ImageNet's.")
]
Std = Annotated[str | None, typer.Option(help="Likewise.")]
Prior = Annotated[
    Path | None,
    typer.Option(
        metavar="P",
        help="Another predictor of accuracy, such as the authors' .pth: its output is one more"
        " feature of the accuracy predictor.",
        show_default=False,
    ),
]


def opened(
    run: str,
    weights: Path | None,
    data: str | None,
    folder: Path | None,
    pixels: tuple[str | None, str | None],
) -> Run:
    """A training run; or a supernet of anybody's, with the folder that its records are in."""
    from onceforall.data import Source
    from onceforall.pipeline import open_run, run_of

    if weights is None:
        if pixels != (None, None):
            raise InputError("--mean and --std go with --weights; a run knows its own")
        return open_run(Path(run), data)
    if data is None or folder is None:
        raise InputError("--weights needs --data, images to calibrate and score on, and --out")
    supernet = supernet_of(run, weights, folder)
    mean, std = numbers("--mean", pixels[0]), numbers("--std", pixels[1])
    if (mean is None) != (std is None):
        raise InputError("--mean and --std go together")
    source = Source(data, channels=supernet.family.in_channels, mean=mean, std=std)
    return run_of(supernet, data, folder, source)


def supernet_of(family: str, weights: Path, folder: Path) -> SuperNet:
    """The supernet of a family with weights of anybody's, whose records are in `folder`."""
    from onceforall.interop import zoo
    from onceforall.supernet import SuperNet

    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out: {folder}: is a file; with --weights, a folder for the records")
    supernet = zoo.load(family, weights)
    if not isinstance(supernet, SuperNet):
        raise InputError(f"{family}: is one network, not a supernet; name a family")
    return supernet
