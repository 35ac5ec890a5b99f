"""Train one network once; take from it the best sub-network for each device and budget.

A finished training run (`onceforall train`, or `onceforall demo`), and networks of it:

    import onceforall

    run = onceforall.open_run("runs/demo")
    card = run.specialize(max_latency="0.05ms", device="onnxruntime-cpu")
    print(card.test, card.latency_measured_ms, card.folder, card.file)
    cards = run.specialize(max_latency=["0.06ms", "0.08ms"], precision=["fp32", "int8"])
    print(run.front())  # what was delivered so far; pandas.DataFrame(run.front()) takes it, too

A published supernet, with its weights, and a sub-network of it as an ordinary `nn.Module`:

    supernet = onceforall.load("ofa_mbv3_w1.0")
    network = supernet.extract(supernet.space.smallest())

Networks of your own as a supernet, with fresh weights; `build` is any function that returns one:

    family = onceforall.elastic(build, depth=(2, 3, 4), width=(32, 48, 64), resolution=(28, 32))
    supernet = onceforall.SuperNet(family)

What is public here:

    open_run    the finished training run in a folder: a Run
    Run         a trained supernet with its images and records: specialize, front, data
    Card        what is known of a delivered network, predicted beside measured
    load        a published supernet or network, or anybody's weights of one
    families    what a supernet is made of: families.get(name), families.names()
    elastic     the family of a function that builds networks
    per_block   a choice that every block makes for itself, for elastic
    SuperNet    the weights of all sub-networks of a family: forward(x, arch), extract(arch)
    Arch        a sub-network as a value: compared, hashed, written as text
    search      the best arch of a space within limits, and fronts, of any objective
    specialize  one network from gathered evidence: what Run.specialize is made of

The rooms behind it: onceforall.space, costs, data, training, predictors, devices, export, interop,
pipeline; each one's docstring says what is in it. The commands: `onceforall --help`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onceforall import families, search
    from onceforall.families.elastic import elastic, per_block
    from onceforall.interop.zoo import load
    from onceforall.pipeline import Card, Run, open_run, specialize
    from onceforall.space import Arch
    from onceforall.supernet import SuperNet

__version__ = "0.1.0"
__all__ = [
    "Arch",
    "Card",
    "Run",
    "SuperNet",
    "__version__",
    "elastic",
    "families",
    "load",
    "open_run",
    "per_block",
    "search",
    "specialize",
]

_ROOMS = {  # imported when first asked for, so that this one is light
    "Arch": "onceforall.space",
    "Card": "onceforall.pipeline",
    "Run": "onceforall.pipeline",
    "SuperNet": "onceforall.supernet",
    "elastic": "onceforall.families",
    "load": "onceforall.interop.zoo",
    "open_run": "onceforall.pipeline",
    "per_block": "onceforall.families",
    "specialize": "onceforall.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in ("families", "search"):
        return import_module(f"onceforall.{name}")
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
