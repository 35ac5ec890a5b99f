"""Ways to train that must not change what is computed: recomputing, synchronised norms."""

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from processes import FORKS, grouped
from torch import nn

from onceforall import data, families, training
from onceforall.data import Source
from onceforall.errors import InputError
from onceforall.space import Arch
from onceforall.supernet import SuperNet, load_supernet
from onceforall.training import fitting, load_settings
from onceforall.training.fitting import parts_that_fit, seconds_of
from onceforall.training.job import Job
from onceforall.training.modes import Modes
from onceforall.training.synchronised import Synchronised
from onceforall.training.teacher import Teacher

RECIPE = """
family: mbv3_mini
resolutions: [12]
data: {name: digits, augmentation: none}
batch_size: 32
momentum: 0.9
phases:
  - {name: largest, steps: 8, lr: 0.001}
  - {name: all, steps: 12, lr: 0.001, archs: 3, kernel: 2, depth: 3, rule: sandwich, distil: 1.0}
"""

LESS = Arch.parse("mbv3_mini@16/16:3x2/24:3x2/40:3x2")
SMALL_STEPS = ("phases.0.lr=0.0003", "phases.1.lr=0.0003")


def trained(
    folder: Path, *changes: str, group: training.Group | None = None
) -> dict[str, torch.Tensor]:
    path = folder / "recipe.yaml"
    if not path.exists():
        path.write_text(RECIPE)
    settings = load_settings(str(path), ["threads=1", *changes])
    run = folder / "-".join(["run" if group is None else "ranks", *(c[:9] for c in changes)])
    training.train(run, settings, data.load(Source("digits", augmentation="none")), group=group)
    return load_supernet(run / "supernet.safetensors")[0].state_dict()


@pytest.mark.parametrize("change", ["dropout=0.2", "stochastic_depth=0.5"])
def test_recomputing_changes_no_bit(change: str, tmp_path: Path) -> None:
    plain = trained(tmp_path, change)
    again = trained(tmp_path, change, "recompute=true")
    assert all(torch.equal(tensor, again[name]) for name, tensor in plain.items())


def test_recomputing_is_for_layers_in_a_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="recompute: networks of vit_mini are not layers in a row"):
        trained(
            tmp_path,
            "family=vit_mini",
            "resolutions=null",
            "phases.1.open={all: 9}",
            "phases.1.kernel=1",
            "phases.1.depth=1",
            "recompute=true",
        )


def _norm(rank: int) -> None:
    """Half of a batch in each process, against PyTorch's own norm of the whole: outputs, gradients
    and running statistics."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(8, 3, 5, 5, generator=generator, dtype=torch.float64)
    wanted = torch.randn(8, 3, 5, 5, generator=generator, dtype=torch.float64)
    part = slice(4 * rank, 4 * rank + 4)
    norms = [nn.BatchNorm2d(3).double() for _ in range(2)]
    x, mine = whole.clone().requires_grad_(), whole[part].clone().requires_grad_()
    y = norms[0](x)
    (y * wanted).sum().backward()
    with Synchronised():
        z = norms[1](mine)
    (z * wanted[part]).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(z, y[part], atol=1e-5, rtol=1e-5)  # it computes in float32
    torch.testing.assert_close(mine.grad, x.grad[part], atol=1e-5, rtol=1e-5)
    for name, tensor in norms[0].state_dict().items():
        if "running" in name:
            torch.testing.assert_close(norms[1].state_dict()[name], tensor, atol=1e-5, rtol=1e-5)


@FORKS
@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_batch(tmp_path: Path) -> None:
    """20 steps, with batch norm of the whole batch. In float64 20 steps at ten times the learning
    rate differ by 3e-11; in float32 they then magnify the rounding of the first step (2e-6) until
    nothing is alike, and two channels of nearly the same importance may be sorted either way: so
    the steps are small here, and no phase sorts channels."""
    one = trained(tmp_path, *SMALL_STEPS)

    def work(group: training.Group) -> None:
        _norm(group.rank)
        found = trained(tmp_path, *SMALL_STEPS, "sync_batch_norm=true", group=group)
        torch.save(found, tmp_path / f"{group.rank}.pt")
        again = trained(
            tmp_path, *SMALL_STEPS, "sync_batch_norm=true", "recompute=true", group=group
        )
        assert all(torch.equal(tensor, again[name]) for name, tensor in found.items())
        fitting.PROBE_SECONDS = 0.02 + group.rank  # so that one tries more often than the other
        trained(tmp_path, "precision=auto", "sync_batch_norm=true", group=group)

    grouped(work, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    start = load_settings(str(tmp_path / "recipe.yaml"))
    assert sum(phase.steps or 0 for phase in start.phases) == 20
    fresh = SuperNet(
        families.get("mbv3_mini", in_channels=1, resolutions=(12,)),
        torch.Generator().manual_seed(0),
    ).state_dict()
    moved = 0.0
    for name, tensor in one.items():
        torch.testing.assert_close(first[name], tensor, atol=1e-5, rtol=1e-5)
        moved = max(moved, float((tensor - fresh[name]).abs().max()))
        assert torch.equal(first[name], second[name]), name
    assert moved > 1.5e-3  # a hundred times as far as they may differ


def test_blocks_of_the_largest_network_are_left_out_at_any_resolution(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    changes = ["threads=1", "resolutions=[12, 16]", "stochastic_depth=0.5"]
    settings = load_settings(str(tmp_path / "recipe.yaml"), changes)
    images = data.load(Source("digits", augmentation="none"))
    job = Job(tmp_path / "run", settings, images, training.Group())
    job.student.train()
    space = job.student.space
    for arch, drops in ((space.largest(), True), (space.largest().at(12), True), (LESS, False)):
        x = torch.randn(4, 1, arch.resolution, arch.resolution)
        assert torch.equal(job.forward(x, arch), job.forward(x, arch)) is not drops
    with torch.no_grad():
        assert torch.equal(job.forward(x, space.largest()), job.forward(x, space.largest()))


def test_stochastic_depth_is_for_blocks_with_a_shortcut(tmp_path: Path) -> None:
    """Said before the first step, whatever network that draws."""
    changes = ["family=vit_mini", "resolutions=null", "phases.0.open={all: 9}"]
    changes += ["phases.1.open={all: 9}", "phases.1.kernel=1", "phases.1.depth=1"]
    with pytest.raises(InputError, match="stochastic_depth: this family's networks have no resid"):
        trained(tmp_path, *changes, "stochastic_depth=0.2")


def test_a_teacher_leaves_nothing_out(tmp_path: Path) -> None:
    """Whatever drops in it; it still normalises by the batch."""
    from torchvision.models import mobilenet_v3_small
    from torchvision.ops import StochasticDepth

    network = mobilenet_v3_small(num_classes=3, dropout=0.9)
    network.features.append(StochasticDepth(0.5, "row"))
    network.features.append(nn.Dropout2d(0.5))
    settings = load_settings("digits")
    family, group = families.get("mbv3_mini"), training.Group()
    arch = family.space.largest()
    teacher = Teacher(network, family, arch, Modes(settings, group))
    x = torch.randn(4, 3, 32, 32)
    first = teacher(x)
    assert torch.equal(first, teacher(x))
    assert not torch.allclose(first[:2], teacher(x[:2]), atol=1e-4)  # another batch


def test_without_processes_a_norm_in_evaluation_is_left_alone() -> None:
    norm = nn.BatchNorm2d(2).eval()
    x = torch.randn(3, 2, 4, 4)
    with Synchronised():
        assert torch.equal(
            norm(x),
            F.batch_norm(
                x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, norm.eps
            ),
        )


def test_a_batch_is_run_in_as_few_parts_as_fit() -> None:
    tried: list[int] = []

    def attempt(images: int) -> None:
        tried.append(images)
        if images > most:
            raise torch.OutOfMemoryError

    for most, parts in ((99, 1), (24, 1), (23, 2), (11, 3), (7, 4), (2, 12)):
        assert parts_that_fit(attempt, 24) == parts, most
    assert tried[-1] == 2
    most = 1
    with pytest.raises(InputError, match="not even 2 images of the largest network fit"):
        parts_that_fit(attempt, 24)


def test_what_failed_is_gone_when_less_is_tried() -> None:
    """An error keeps what was computed until it was raised."""
    kept: list[weakref.ref[torch.Tensor]] = []

    def attempt(images: int) -> None:
        assert all(found() is None for found in kept)
        computed = torch.zeros(images)
        kept.append(weakref.ref(computed))
        if images > 2:
            raise torch.OutOfMemoryError

    assert parts_that_fit(attempt, 8) == 4
    assert len(kept) == 3


def test_finding_what_fits_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither gradients nor other weights or statistics, whatever the random state."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    settings = load_settings(str(tmp_path / "recipe.yaml"), ["dropout=0.5"])
    job = Job(tmp_path / "run", settings, data.load(settings.data), training.Group())
    before = {name: tensor.clone() for name, tensor in job.student.state_dict().items()}
    job._attempt(4)
    assert all(torch.equal(t, before[name]) for name, t in job.student.state_dict().items())
    assert all(parameter.grad is None for parameter in job.student.parameters())


@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
def test_the_precision_that_a_probe_finds_faster_is_kept(
    chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Weights are to the bit those of a run that was asked for it; what goes on does not ask again,
    whatever it would find then."""
    probes: list[set[str]] = []

    def seconds(ways: dict, prepare: Callable[[str], None]) -> dict[str, float]:
        probes.append(set(ways))
        for name, way in ways.items():
            prepare(name)
            way()
        return {name: 1.0 if name == chosen else 1.25 for name in ways}

    monkeypatch.setattr("onceforall.training.job.seconds_of", seconds)
    asked = trained(tmp_path, "seed=0", f"precision={chosen}")
    found = trained(tmp_path, "precision=auto")
    assert all(torch.equal(tensor, found[name]) for name, tensor in asked.items())
    assert probes == [{"fp32", "bf16"}]
    assert f"precision: {chosen}; a backward pass in bf16 takes" in capfd.readouterr().err

    run = tmp_path / "run-precision"
    settings = load_settings(str(tmp_path / "recipe.yaml"), ["threads=1", "precision=auto"])
    (run / "supernet.safetensors").unlink()
    monkeypatch.setattr("onceforall.training.job.seconds_of", lambda *_: pytest.fail("asked"))
    training.train(run, settings, data.load(settings.data), resume=True)
    again = load_supernet(run / "supernet.safetensors")[0].state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in found.items())


def test_a_little_faster_or_out_of_memory_is_no_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    settings = load_settings(str(tmp_path / "recipe.yaml"), ["precision=auto"])
    job = Job(tmp_path / "run", settings, data.load(settings.data), training.Group())
    asked: list[int] = []

    def attempt(images: int) -> None:
        asked.append(images)
        if images > 4:
            raise torch.OutOfMemoryError

    def seconds(ways: dict, prepare: Callable[[str], None]) -> dict[str, float]:
        for name, way in ways.items():
            prepare(name)
            way()
        return {"fp32": 1.0, "bf16": 0.97}

    monkeypatch.setattr(job, "_attempt", attempt)
    monkeypatch.setattr("onceforall.training.job.seconds_of", seconds)
    job.settle()
    assert job.modes.precision == "fp32"
    assert asked == [16, 8, 4, 4, 4]  # whether it fits, then both ways


def test_what_is_probed_is_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], list[str]()

    def way(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds

    monkeypatch.setattr("onceforall.training.fitting.time.perf_counter", lambda: now[0])
    found = seconds_of({"a": lambda: way("a", 0.3), "b": lambda: way("b", 0.2)})
    assert found == {"a": pytest.approx(0.3), "b": pytest.approx(0.2)}
    assert order == ["a", "b"] * 5
    slow = seconds_of({"a": lambda: way("a", 30), "b": lambda: way("b", 20)})
    assert slow == {"a": pytest.approx(30), "b": pytest.approx(20)}


def test_the_momentum_of_gpus_takes_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks of other depths in turns, so that blocks get their first gradient at other steps:
    the fused kernel, here on the CPU, against that of the CPU."""
    changes = ("seed=0", "phases.1.rule=random", "phases.1.distil=0")
    plain = trained(tmp_path, *changes)
    monkeypatch.setattr("onceforall.training.optimizers._kernels", lambda _: {"fused": True})
    (tmp_path / "fused").mkdir()
    fused = trained(tmp_path / "fused", *changes)
    for name, tensor in plain.items():
        torch.testing.assert_close(fused[name], tensor, rtol=1e-4, atol=1e-5)
