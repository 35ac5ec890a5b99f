"""Commands that train: `train`, `finetune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onceforall.cli import completing
from onceforall.cli.common import Json, command, emit
from onceforall.cli.nets import Net, Weights
from onceforall.cli.networks import Resolution, resolved
from onceforall.errors import InputError, choices

if TYPE_CHECKING:
    from onceforall.interop import Resolved
    from onceforall.training import Settings, Static

Config = Annotated[
    str,
    typer.Argument(
        metavar="[CONFIG]",
        help="A YAML file, or the name of a recipe: small, digits, photos, photos-from, paper;"
        " sandwich, bignas,"
        " attentive, alphanet, compofa, delayed; any, for families of your own. auto chooses small"
        " or photos by the size of the images. docs/training.md says what each is.",
        autocompletion=completing.recipes,
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
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="Train nothing: time a few steps of each phase here, and say what the run would"
            " take on 1, 8, 64 and 512 devices.",
        ),
    ] = False,
    price_per_hour: Annotated[
        float | None,
        typer.Option(min=0, help="Dollars a device, for --estimate.", show_default=False),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="GB/s from one device to another, for --estimate; 200 within a machine of 8 and 25"
            " between machines, if left out.",
            show_default=False,
        ),
    ] = None,
    per_device: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Images of a batch that each device has, for --estimate, so that the batch grows"
            " with the devices; batch_size shared among them, if left out.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training images, for --estimate of a run whose data are not here.",
            show_default=False,
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

    onceforall train paper --estimate --images 1281167 --price-per-hour 2.5
    """
    from onceforall import data, training
    from onceforall.cli.estimating import Wanted, estimated
    from onceforall.training import load_settings, ranks, recipes, scale, source_of

    given = changes or []
    if not config:
        raise InputError(
            "train: of what? Name images, as in `onceforall train data.name=IMAGES`, or a recipe:"
            f" {choices(recipes())}"
        )
    if config == "finetune":
        raise InputError("finetune: this recipe is for `onceforall finetune NET`, of one network")
    if "=" in config and not Path(config).exists():  # a change, and no recipe named
        config, given = scale.AUTO, [config, *given]
    if weights is not None:
        given = [*given, f"weights={json.dumps(str(weights))}"]
    group = ranks.join()
    wanted = Wanted(price_per_hour, bandwidth, per_device, images)
    if estimate:
        estimated(config, given, group, wanted, as_json)
        return
    wanted.refuse()

    def read() -> tuple[str, Settings, data.Data]:
        name = config
        if name == scale.AUTO:
            name = scale.recipe_for(data.size_of(source_of(given)), given)
        asked = load_settings(name, given)
        return name, asked, data.load(asked.data)  # as the recipe wants it

    recipe, settings, found = group.together(read)
    about = group.together(lambda: scale.described(recipe, settings, found))
    done = training.train(out, settings, found, resume=resume, group=group, about=about)
    if group.first:
        result = {"run": str(done.run), "steps": done.steps, "seconds": round(done.seconds, 1)}
        then = command("specialize", done.run, "--max-latency", "...")
        emit({**result, **done.metrics}, as_json, then=then)
    ranks.leave()


# Settings of fine-tuning that are said otherwise.
SAID = {
    "data.name": "--data",
    "family": "NET",
    "resolutions": "--resolution",
    "weights": "--weights",
}


def finetune(
    net: Net,
    changes: Changes = None,
    data: Annotated[
        str,
        typer.Option(
            metavar="D",
            help="Images to train on: a folder, or whatever `train` takes as data.name.",
            autocompletion=completing.data,
            show_default=False,
        ),
    ] = ...,  # type: ignore[assignment]
    weights: Weights = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the training images; 75, or 25 from 100,000 images on, if left out.",
            show_default=False,
        ),
    ] = None,
    resolution: Resolution = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A checkpoint of a network of the same classes, whose outputs are learned, too.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of the run.")] = Path("runs/finetuned"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in that folder.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Trains a network further, with the weights it has or those of a supernet (a file, or a run's
    folder), on the same or other images and classes.

    Of other classes the last layer is replaced, and trained alone first. The result is
    OUT/network.safetensors, which `evaluate`, `measure` and `export` take, and OUT/card.json with
    its scores. Changes are of the recipe `finetune`.

    Examples:

    onceforall finetune network.safetensors --data images --out runs/tuned

    onceforall finetune ofa_mbv3_w1.0:smallest --weights w1.pth --data photos --epochs 25
    """
    from onceforall import data as images
    from onceforall import pipeline
    from onceforall.training import ranks

    given = changes or []
    for change in given:
        key = change.partition("=")[0]
        if key in SAID:
            raise InputError(f"{change}: of fine-tuning {SAID[key]} says this")
    group = ranks.join()

    def read() -> tuple[Resolved, Static, Settings, images.Data, Static | None]:
        network = resolved(net, resolution, weights)
        settings = _settings(network, data, given)
        found = images.load(settings.data)
        last = f"phases.{len(settings.phases) - 1}"
        lengths = {"phases", last, f"{last}.epochs", f"{last}.steps"}
        if epochs is not None or not lengths & {c.partition("=")[0] for c in given}:
            settings = pipeline.with_epochs(settings, len(found.train), epochs)
        taught = None if teacher is None else _static(resolved(str(teacher), None))
        return network, _static(network), settings, found, taught

    network, static, settings, found, taught = group.together(read)
    done = pipeline.finetune(
        out,
        static,
        found,
        settings,
        classes=network.data.get("classes"),
        teacher=taught,
        resume=resume,
        group=group,
    )
    if group.first:
        result = {"path": str(done.path), "run": str(out), "steps": done.training.steps}
        result |= {"seconds": round(done.training.seconds, 1), **done.training.metrics}
        scores = {k: v for k, v in done.card.items() if k not in ("data", "weights")}
        then = command("export", done.path, done.path.with_suffix(".onnx"))
        emit({**result, **scores}, as_json, then=then)
    ranks.leave()


def _settings(network: Resolved, data: str, changes: list[str]) -> Settings:
    """What the recipe and the changes make for a network: images are prepared as it is used to."""
    from dataclasses import replace

    from onceforall.cli.evaluation import task_of
    from onceforall.training import load_settings

    source = network.weights or network.typed
    own = [f"data.name={json.dumps(data)}", f"weights={json.dumps(str(source))}"]
    own += [f"task={json.dumps(task_of(network.facts))}"]
    settings = load_settings("finetune", [*own, *changes])
    images, facts, channels = settings.data, network.data, network.family.in_channels
    if images.channels not in (None, channels):
        raise InputError(
            f"data.channels: {images.channels}, and {network.arch.family} takes {channels}"
        )
    images = replace(images, channels=channels)
    if images.mean is None and images.std is None and len(facts.get("mean", ())) == channels:
        images = replace(images, mean=tuple(facts["mean"]), std=tuple(facts["std"]))
    return replace(settings, data=images)


def _static(network: Resolved) -> Static:
    """The network with its weights.

    Raises:
        InputError: there are none, or they do not fit.
    """
    from onceforall.training import Static

    return Static(network.module(), *network.network)
