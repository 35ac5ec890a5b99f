"""How fast a training step is, beside PyPI `ofa`: the same weights, batch, archs and losses.

    python benchmarks/training.py --steps 20 --out docs/figures/training-step.json
    python benchmarks/training.py --profile --steps 5 --out docs/figures/training-profile.json
    python benchmarks/training.py --device cuda --batch 256 --resolution 224 --grid

One step is that of the paper's progressive shrinking: the logits of a teacher (the largest
network, in training mode), four random sub-networks of `ofa_mbv3_w1.0`, each with cross entropy
(label smoothing 0.1) and cross entropy to the teacher's soft labels, and one update by SGD
(Nesterov momentum 0.9, weight decay 3e-5 on weights). `ofa` takes it as its own script
`progressive_shrinking.py` does, without its printing. Our side is the step that training takes
(`loop.train_step`), with the norm of gradients, the seeds and the counts that keep a run safe.

Both take every step in turn, in one process, first one and then the other, on the same batch and
archs; medians and quartiles of seconds a step and of the ratio within each pair. Before, the losses
of the last network of two steps are compared, so that both compute (and update by) the same. On the
CPU our side is timed with its compiled kernels and with PyTorch's operations
(`ONCEFORALL_KERNELS=0`). `--grid` does so for each precision and memory layout of our side,
`--ofa-precision bf16` with `ofa` under autocast.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import figures
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from onceforall import interop
from onceforall.families.kernels import SWITCH
from onceforall.interop.arch_dict import from_arch_dict
from onceforall.space import Arch
from onceforall.supernet import SuperNet
from onceforall.training import Group, settings_from_dict
from onceforall.training.curricula import RULES
from onceforall.training.feed import Batch
from onceforall.training.job import Job
from onceforall.training.loop import train_step
from onceforall.training.optimizers import optimizer_of
from onceforall.training.probing import imagined

FAMILY = "ofa_mbv3_w1.0"
ARCHS, CLASSES = 4, 1000
SMOOTHING, RATE, MOMENTUM, DECAY = 0.1, 0.01, 0.9, 3e-5
CHOICES: dict[str, Any] = {
    "ks_list": [3, 5, 7],
    "expand_ratio_list": [3, 4, 6],
    "depth_list": [2, 3, 4],
}
PRECISIONS: dict[str, torch.dtype | None] = {
    "fp32": None,
    "tf32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
COLUMNS = {
    "our side": "{setting}",
    "kernels": "{kernels}",
    "steps": "{steps}",
    "`ofa` in": "{theirs}",
    "`ofa`, s a step": "{ofa:.2f} ({ofa_low:.2f} to {ofa_high:.2f})",
    "ours": "{onceforall:.2f} ({onceforall_low:.2f} to {onceforall_high:.2f})",
    "ratio": "{ratio:.2f} ({ratio_low:.2f} to {ratio_high:.2f})",
    "losses differ by": "{losses_differ:.0e}",
}
PEAKS = {"`ofa`, MiB": "{ofa_peak_mib:.0f}", "ours, MiB": "{onceforall_peak_mib:.0f}"}
KINDS = {  # of operators, as the profiler names them
    "convolution": r"(?!.*backward).*conv.*",
    "convolution, backward": r".*conv.*backward.*",
    "matrix products": r"(add|b|baddb)?mm",
    "batch norm": r"(?!.*backward).*batch_norm.*",
    "batch norm, backward": r".*batch_norm.*backward.*",
    "activation": r"(relu|clamp_min|hardtanh|hardswish|hardsigmoid)_?",
    "activation, backward": r"(threshold|hardtanh|hardswish|hardsigmoid)_backward",
    "norm and activation (kernels)": "_NormAct",
    "norm and activation (kernels), backward": "_NormActBackward",
    "middle of blocks (kernels)": "_Between",
    "middle of blocks (kernels), backward": "_BetweenBackward",
    "optimiser, norm of gradients": "_foreach.*|linalg_vector_norm",
    "copies, fills, new memory": "copy_|clone|fill_|zero_|empty.*|cat",
}
REST = "the rest"
CLOSE = 1e-3  # relative difference of the losses, in float32

Choice = dict[str, Any]  # a sub-network, as `ofa` says it
Step = Callable[["Work"], list[float]]  # takes one step; the losses of its archs


class Work(NamedTuple):
    """What a step is given."""

    images: Tensor
    labels: Tensor
    archs: list[Choice]


@dataclass(frozen=True)
class Setting:
    """How our side runs, and in which precision `ofa` does; its layout is as it is."""

    device: torch.device
    precision: str = "fp32"
    channels_last: bool = True
    theirs: str = "fp32"

    def autocast(self) -> AbstractContextManager[Any]:
        """What a forward pass of `ofa` is called in."""
        dtype = PRECISIONS[self.theirs]
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()


def pair(seed: int) -> tuple[Any, SuperNet]:
    """The two supernets with the same fresh weights, passed over as a file."""
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3
    from ofa.utils import init_models

    torch.manual_seed(seed)
    theirs = OFAMobileNetV3(dropout_rate=0, width_mult=1.0, **CHOICES)
    init_models(theirs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "init"
        torch.save({"state_dict": theirs.state_dict()}, path)
        ours = interop.read_supernet(path)
    assert isinstance(ours, SuperNet)
    return theirs, ours


def their_step(theirs: Any, setting: Setting) -> Step:
    """`train_one_epoch` of `ofa`, one batch of it."""
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3
    from ofa.utils import (
        cross_entropy_loss_with_soft_target,
        cross_entropy_with_label_smoothing,
    )

    largest = {name: [max(values)] for name, values in CHOICES.items()}
    teacher = OFAMobileNetV3(dropout_rate=0, width_mult=1.0, **largest).to(setting.device)
    teacher.load_state_dict(
        {k: v for k, v in theirs.state_dict().items() if not k.endswith("_matrix")}
    )
    theirs.to(setting.device)
    optimizer = torch.optim.SGD(
        [
            {
                "params": theirs.get_parameters(["bn", "bias"], mode="exclude"),
                "weight_decay": DECAY,
            },
            {"params": theirs.get_parameters(["bn", "bias"], mode="include"), "weight_decay": 0},
        ],
        RATE,
        MOMENTUM,
        nesterov=True,
    )

    def step(work: Work) -> list[float]:
        theirs.train()
        teacher.train()
        with torch.no_grad(), setting.autocast():
            soft = F.softmax(teacher(work.images).detach().float(), dim=1)
        theirs.zero_grad()
        losses = []
        for arch in work.archs:
            theirs.set_active_subnet(**arch)
            with setting.autocast():
                logits = theirs(work.images).float()
            loss = cross_entropy_loss_with_soft_target(logits, soft)
            loss = loss + cross_entropy_with_label_smoothing(logits, work.labels, SMOOTHING)
            losses.append(loss.detach())
            loss.backward()
        optimizer.step()
        return [float(loss) for loss in losses]

    return step


def our_step(ours: SuperNet, setting: Setting, batch: int, resolution: int) -> Step:
    """The step that training itself takes (`loop.train_step`), all that keeps a run safe included,
    of the networks that it is given."""
    phase: dict[str, Any] = {"name": "all", "steps": 10**6, "lr": RATE, "archs": ARCHS}
    phase |= dict.fromkeys(("kernel", "depth", "expand"), 3)
    given: dict[str, Any] = {"family": FAMILY, "resolutions": [resolution], "phases": [phase]}
    given |= {"data": {"name": "noise"}, "batch_size": batch, "label_smoothing": SMOOTHING}
    given |= {"momentum": MOMENTUM, "weight_decay": DECAY, "dropout": 0.0}
    settings = settings_from_dict(given | {"precision": setting.precision}, "benchmark")
    images, group = imagined(settings, 10 * batch), Group(device=setting.device)
    job = Job(Path(tempfile.gettempdir()) / "nothing", settings, images, group)
    job.student.load_state_dict(ours.state_dict())
    job.make_teacher()
    assert job.teacher is not None
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    for network in (job.student, job.teacher.network):
        network.to(memory_format=layout)  # type: ignore[call-overload]
    asked: list[list[Arch]] = []
    RULES[rule := f"asked {len(RULES)}"] = lambda *_: asked
    asking = replace(job.curriculum.phases[0], rule=rule, distil=1.0)  # by the teacher above
    job.enter(asking)
    job.state.begin(optimizer_of(job.student, settings))  # its numbers lie as the weights do

    def step(work: Work) -> list[float]:
        asked[:] = [[arch_of(arch, resolution)] for arch in work.archs]
        images = work.images.contiguous(memory_format=layout)
        loss, _, _ = train_step(job, asking, job.state.step, [Batch(images, work.labels)])
        job.state.step += 1
        return [float(loss)]  # of the last network

    return step


def arch_of(choice: Choice, resolution: int) -> Arch:
    return from_arch_dict({**choice, "r": [resolution]}, FAMILY)


class Draw:
    """Batches and archs, drawn anew for each step."""

    def __init__(self, batch: int, resolution: int, device: torch.device) -> None:
        self.batch, self.resolution, self.device = batch, resolution, device
        self.archs = random.Random(0)
        self.images = torch.Generator().manual_seed(0)

    def work(self) -> Work:
        shape = (self.batch, 3, self.resolution, self.resolution)
        images = torch.randn(shape, generator=self.images)
        labels = torch.randint(CLASSES, (self.batch,), generator=self.images)
        archs = [self._arch() for _ in range(ARCHS)]
        return Work(images.to(self.device), labels.to(self.device), archs)

    def _arch(self) -> Choice:
        draw = self.archs.choices
        return {
            "ks": draw(CHOICES["ks_list"], k=20),
            "e": draw(CHOICES["expand_ratio_list"], k=20),
            "d": draw(CHOICES["depth_list"], k=5),
        }


def seconds(step: Step, work: Work, device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    step(work)
    wait()
    return time.perf_counter() - start


def check(theirs: Step, ours: Step, draw: Draw, exact: bool) -> list[float]:
    """Relative differences of the losses of two steps, the second after an update by the first.

    Raises:
        SystemExit: they are not the same (where both compute in float32).
    """
    found = []
    for _ in range(2):
        work = draw.work()
        for a, b in zip(theirs(work)[-1:], ours(work), strict=True):
            found.append(abs(a - b) / abs(a))
    if exact and max(found) > CLOSE:
        raise SystemExit(f"the losses differ by {max(found):.1e}: not the same computation")
    return found


def compare(setting: Setting, batch: int, resolution: int, steps: int) -> dict[str, Any]:
    """The row of one setting."""
    if setting.device.type == "cuda":
        fast = setting.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast
        torch.backends.cudnn.benchmark = True  # as `ofa` has it
    there, here = pair(0)
    theirs, ours = their_step(there, setting), our_step(here, setting, batch, resolution)
    draw = Draw(batch, resolution, setting.device)
    exact = PRECISIONS[setting.precision] is PRECISIONS[setting.theirs] is None
    differences = check(theirs, ours, draw, exact)
    for _ in range(2):
        work = draw.work()
        theirs(work), ours(work)
    times: dict[str, list[float]] = {"ofa": [], "onceforall": []}
    memory: dict[str, int] = {}
    for i in range(steps):
        work = draw.work()
        order = [("ofa", theirs), ("onceforall", ours)]
        for name, step in order[:: 1 if i % 2 else -1]:
            if setting.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            times[name].append(seconds(step, work, setting.device))
            if setting.device.type == "cuda":
                added = torch.cuda.max_memory_allocated() - before
                memory[name] = max(memory.get(name, 0), added)
    layout = "channels last" if setting.channels_last else "contiguous"
    ratios = [a / b for a, b in zip(*times.values(), strict=True)]
    row: dict[str, Any] = {
        "setting": f"{setting.precision}, {layout}, batch {batch}, {resolution} px",
        "theirs": setting.theirs,
        "steps": steps,
        "losses_differ": max(differences),
    }
    for name, values in {**times, "ratio": ratios}.items():
        cut = statistics.quantiles(values, n=4)
        row |= dict(zip((f"{name}_low", name, f"{name}_high"), cut, strict=True))
    return row | {f"{name}_peak_mib": peak / 2**20 for name, peak in memory.items()}


def profiled(setting: Setting, batch: int, resolution: int, steps: int) -> figures.Table:
    """Where a step's time goes, by kind of operator, in milliseconds: `ofa`, our side with
    PyTorch's operations and, on the CPU, with its kernels, in turn on the same batches."""
    there, here = pair(0)
    cuda = setting.device.type == "cuda"
    columns = {"own time of operators": "{kind}", "`ofa`, ms a step": "{ofa:.0f}"}
    columns |= {"ours, PyTorch's operations": "{off:.0f}"}
    sides = {"ofa": their_step(there, setting), "off": our_step(here, setting, batch, resolution)}
    if not cuda:
        columns |= {"ours, kernels": "{on:.0f}"}
        sides["on"] = our_step(pair(0)[1], setting, batch, resolution)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    draw = Draw(batch, resolution, setting.device)
    spent: dict[str, dict[str, float]] = {name: {} for name in sides}
    for i in range(steps + 1):
        work = draw.work()
        for name, step in sides.items():
            os.environ[SWITCH] = str(int(name == "on"))
            with profile(activities=kinds) as found:
                step(work)
            for row in found.key_averages() if i else ():  # the first is to warm up
                if row.device_type.name == "CPU":
                    own = row.self_device_time_total if cuda else row.self_cpu_time_total
                    kind = kind_of(row.key)
                    spent[name][kind] = spent[name].get(kind, 0) + own / steps / 1e3
    table = figures.Table(columns)
    for kind in (*KINDS, REST):
        if any(kind in of for of in spent.values()):
            table.add(kind=kind, **{name: of.get(kind, 0) for name, of in spent.items()})
    table.add(kind="all", **{name: sum(of.values()) for name, of in spent.items()})
    return table


def kind_of(operator: str) -> str:
    name = operator.removeprefix("aten::")
    return next((kind for kind, words in KINDS.items() if re.fullmatch(words, name)), REST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--resolution", type=int, default=128, help="pixels")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32")
    layout = argparse.BooleanOptionalAction
    parser.add_argument("--channels-last", action=layout, default=True)
    parser.add_argument("--ofa-precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="where the time goes, by operator")
    parser.add_argument("--grid", action="store_true", help="every precision and layout")
    figures.add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    device = torch.device(given.device)
    wanted = [(given.precision, given.channels_last)]
    if given.grid:
        wanted = list(itertools.product(PRECISIONS, (True, False)))
    settings = [Setting(device, *each, given.ofa_precision) for each in wanted]
    if given.profile:
        table = profiled(settings[0], given.batch, given.resolution, given.steps)
        figures.write(given.out, {"training-profile": table}, "ofa")
        return
    table = figures.Table(COLUMNS | (PEAKS if given.device == "cuda" else {}))
    kernels = ("on", "off") if given.device == "cpu" else ("off",)
    for setting, kind in itertools.product(settings, kernels):
        os.environ[SWITCH] = str(int(kind == "on"))
        table.add(kernels=kind, **compare(setting, given.batch, given.resolution, given.steps))
    figures.write(given.out, {"training-step": table}, "ofa")


if __name__ == "__main__":
    main()
