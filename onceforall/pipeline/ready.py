"""The network of an arch as the file that may be delivered: calibrated, exported, checked.

Knows a supernet, its data and a target; nothing of how an arch was chosen.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from onceforall.data import Data, Images
from onceforall.devices import Target
from onceforall.export import Exported, export
from onceforall.pipeline.collecting import shape_of
from onceforall.pipeline.recording import digest
from onceforall.space import Arch
from onceforall.supernet import SuperNet, Task, calibrated, unlabelled_batches

CALIBRATED_ON = 300  # training images, in int8
COMPARED_ON = 200  # validation images, on which file and network should agree


@dataclass(frozen=True)
class Ready:
    """A calibrated network and its file."""

    arch: Arch
    network: nn.Module
    exported: Exported
    folder: TemporaryDirectory  # of the file


def ready(supernet: SuperNet, data: Data, task: Task, target: Target, arch: Arch) -> Ready:
    """Calibrated, exported in the target's format and precision, compared on real images."""
    network = calibrated(supernet, arch, data)
    form = target.delivered_format
    own = copy.deepcopy(network).cpu()
    facts = {
        "arch": str(arch),
        "resolution": arch.resolution,
        **data.facts(),
        "supernet": digest(supernet),
        "task": task.name,
        "precision": target.file_precision(form),
    }
    folder = TemporaryDirectory()
    exported = export(
        own,
        shape_of(supernet.family, arch),
        Path(folder.name) / f"network{form.suffix}",
        form.name,
        facts,
        precision=target.file_precision(form),
        calibration=_images(data.train, arch.resolution, CALIBRATED_ON, own),
        images=_images(data.validation, arch.resolution, COMPARED_ON, own),
    )
    return Ready(arch, network, exported, folder)


def _images(images: Images, resolution: int, n: int, network: nn.Module) -> Tensor:
    """(n, C, H, W) of them, as they are evaluated."""
    return torch.cat(list(unlabelled_batches(images, resolution, n, network)))
