"""The network whose outputs those that are trained learn to match."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from onceforall.families import Family, Planned
from onceforall.space import Arch
from onceforall.supernet import save_network
from onceforall.training import checkpoints, folder, guards
from onceforall.training.modes import Modes
from onceforall.training.objectives import at_resolution


class Teacher:
    """A network that learns no more. It normalises by the batch, as the networks that it teaches
    do, and drops nothing out."""

    def __init__(self, network: nn.Module, family: Family, arch: Arch, modes: Modes) -> None:
        """Takes the network, and changes it."""
        self.network, self.family, self.arch, self.modes = network, family, arch, modes
        modes.place(network.requires_grad_(False).train())
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.track_running_stats = False
            elif _may_drop(module):
                module.training = False  # what is in it decides for itself

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, R, R) -> outputs."""
        if not isinstance(self.family, Planned):  # such networks may run at their size alone
            images = at_resolution(images, self.arch)
        with self.modes.norms():
            found: Tensor = self.network(images)
        return found

    def save(self, run: Path) -> None:
        """Writes it into the folder of a run.

        Raises:
            InputError: it cannot be written.
        """
        path = run / folder.TEACHER
        with guards.written(path, checkpoints.kept(run)):
            save_network(path, self.network, self.family, self.arch, {}, overwrite=True)


def _may_drop(module: nn.Module) -> bool:
    """Whether it may leave out something at random in training: any layer of other code may, such
    as timm's `DropPath`. Of PyTorch's few do, and ours leave it to them."""
    ours = type(module).__module__.startswith(("torch.nn.modules.", "onceforall.families."))
    return not ours or isinstance(module, _DropoutNd | nn.MultiheadAttention)
