"""Commands that train: `train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from onceforall.cli.common import Json, emit
from onceforall.errors import InputError, choices

Config = Annotated[
    str,
    typer.Argument(
        metavar="[CONFIG]",
        help="A YAML file, or the name of a recipe: small, sandwich, digits, photos, paper, and any"
        " for families of your own; auto chooses small or photos by the size of the images.",
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE ...]", help="Changes, such as data.name=/images seed=1."),
]


def train(
    config: Config = "",
    changes: Changes = None,
    out: Annotated[Path, typer.Option(help="The folder of the run.")] = Path("runs/supernet"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in that folder.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Weights of a trained network (of timm, torchvision, the authors, or of this"
            " package), which the largest network starts from.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Trains a supernet: all sub-networks of a family at once.

    Stopped with Ctrl-C, it writes a checkpoint; --resume takes the same steps as if it had not
    been stopped. Started by torchrun, it trains on several processes or GPUs.

    Examples:

    onceforall train data.name=/path/to/images --out runs/mine

    onceforall train any family=my_net.py:family data.name=/path/to/images --from trained.pth

    torchrun --nproc-per-node 4 -m onceforall train paper data.name=/imagenet --out runs/w1
    """
    from onceforall import data, training
    from onceforall.training import Settings, load_settings, ranks, recipes, scale, source_of

    given = changes or []
    if not config:
        raise InputError(
            "train: of what? Name images, as in `onceforall train data.name=IMAGES`, or a recipe:"
            f" {choices(recipes())}"
        )
    if "=" in config and not Path(config).exists():  # a change, and no recipe named
        config, given = scale.AUTO, [config, *given]
    if weights is not None:
        given = [*given, f"weights={json.dumps(str(weights))}"]
    group = ranks.join()

    def read() -> tuple[str, Settings, data.Data]:
        name = config
        if name == scale.AUTO:
            name = scale.recipe_for(data.size_of(source_of(given)), given)
        wanted = load_settings(name, given)
        return name, wanted, data.load(wanted.data)  # as the recipe wants it

    recipe, settings, found = group.together(read)
    about = group.together(lambda: scale.described(recipe, settings, found))
    done = training.train(out, settings, found, resume=resume, group=group, about=about)
    if group.first:
        result = {"run": str(done.run), "steps": done.steps, "seconds": round(done.seconds, 1)}
        emit({**result, **done.metrics}, as_json)
