"""What a step minimises, by hand and by other people's formulas."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from onceforall import families
from onceforall.space import Arch
from onceforall.supernet import SuperNet
from onceforall.supernet.tasks import CLASSIFICATION
from onceforall.training.curricula import Phase, PhasePlan, curriculum
from onceforall.training.objectives import MOST_WEIGHT, Objective, alpha_divergence

FAMILY = families.get("mbv3_mini", resolutions=(16,))


def objective(smoothing: float = 0.1) -> Objective:
    return Objective(CLASSIFICATION, smoothing, nullcontext, lambda x: x)


def phase(**settings: object) -> Phase:
    plan = PhasePlan("a", 1, 0.1, **{"archs": 3, "open": {"all": 9}, **settings})  # type: ignore[arg-type]
    return curriculum(FAMILY.space, [plan]).phases[0]


@pytest.fixture
def supernet() -> SuperNet:
    return SuperNet(FAMILY, torch.Generator().manual_seed(0)).train()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (12, FAMILY.in_channels, 16, 16)
    images = torch.randn(shape, generator=generator)
    return images, torch.randint(FAMILY.classes, (12,), generator=generator)


def test_labels_and_a_teacher_count_as_the_authors_have_them(
    supernet: SuperNet, batch: tuple[Tensor, Tensor]
) -> None:
    """2 / (distil + 1) times labels and distil times soft labels; of soft labels only, those."""
    images, labels = batch
    lesson = torch.randn(12, FAMILY.classes, generator=torch.Generator().manual_seed(2))
    for settings, weights in (
        ({"distil": 1.0}, (1.0, 1.0)),
        ({"distil": 0.5}, (4 / 3, 2 / 3)),
        ({"distil": 1.0, "labels": 0.0}, (0.0, 1.0)),
    ):
        part = phase(**settings)
        slots = part.draw(0, 0)
        found = list(objective().losses(supernet, lambda x: lesson, part, slots, images, labels))
        for (arch,), loss in zip(slots, found, strict=True):
            logits = supernet(images, arch)
            hard = F.cross_entropy(logits, labels, label_smoothing=0.1)
            soft = -(lesson.softmax(1) * logits.log_softmax(1)).sum(1).mean()
            expected = weights[0] * hard + weights[1] * soft
            torch.testing.assert_close(loss.value, expected)
            assert loss.arch == arch


def test_in_the_sandwich_the_largest_teaches_what_it_just_computed(
    supernet: SuperNet, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    part = phase(rule="sandwich", distil=1.0, labels=0.0)
    first, *others = objective().losses(supernet, None, part, part.draw(0, 0), images, labels)
    assert first.arch == part.space.largest()
    largest = supernet(images, first.arch)
    expected = F.cross_entropy(largest, labels, label_smoothing=0.1)
    torch.testing.assert_close(first.value, expected)
    for loss in others:
        logits = supernet(images, loss.arch)
        expected = -(largest.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(loss.value, expected)


@pytest.mark.parametrize("attend", ["best", "worst"])
def test_of_candidates_the_best_or_the_worst_on_the_batch_is_trained(
    supernet: SuperNet, batch: tuple[Tensor, Tensor], attend: str
) -> None:
    images, labels = batch
    part = phase(attend=attend)
    archs = FAMILY.space.decode(FAMILY.space.sample(np.random.default_rng(0), 6))
    slots = [archs[:3], archs[3:]]
    found = list(objective().losses(supernet, None, part, slots, images, labels))
    pick = min if attend == "best" else max

    def loss_of(arch: Arch) -> float:
        return float(F.cross_entropy(supernet(images, arch), labels).detach())

    assert [loss.arch for loss in found] == [pick(slot, key=loss_of) for slot in slots]


def test_alpha_divergence_has_the_gradient_of_its_definition() -> None:
    """Where no weight is cut off: of D(p || q) = sum q ((p / q)^a - 1) / (a (a - 1)), by autograd,
    for the order that is the larger one; for a = 1 of its limit, KL(p || q)."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(6, 5, generator=generator, dtype=torch.float64) * 0.3
    outputs = torch.randn(6, 5, generator=generator, dtype=torch.float64) * 0.3
    outputs.requires_grad_()
    p, q = teacher.softmax(1), outputs.softmax(1)
    assert (p / q).max() < MOST_WEIGHT
    assert (q / p).max() < MOST_WEIGHT
    reverse = (q * ((p / q) ** -1 - 1)).sum(1) / 2
    forward = (p * (p.log() - q.log())).sum(1)
    expected = torch.maximum(reverse, forward).mean()
    assert 0 < (reverse > forward).sum() < 6
    (wanted,) = torch.autograd.grad(expected, outputs)
    (got,) = torch.autograd.grad(alpha_divergence(outputs, teacher), outputs)
    torch.testing.assert_close(got, wanted)


def test_alpha_divergence_cuts_off_what_a_single_class_would_decide() -> None:
    """q = 100 p of a class: its weight is MOST_WEIGHT in place of 100, so the gradient is at most
    that times q."""
    outputs = torch.tensor([[8.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 4.0]])
    alpha_divergence(outputs, teacher).backward()
    assert outputs.grad is not None
    assert outputs.grad.abs().max() <= 2 * MOST_WEIGHT
