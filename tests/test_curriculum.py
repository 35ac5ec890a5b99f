"""Which archs are trained when: progressive shrinking and the sandwich rule."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from onceforall import families
from onceforall.costs import cost_table
from onceforall.errors import InputError
from onceforall.space import Arch, Gene, Presence, Space
from onceforall.training import Phase, PhasePlan, curriculum, load_settings

FAMILY = families.get("mbv3_mini")
PLANS = [
    PhasePlan("largest", 10, 0.4, warmup=2),
    PhasePlan("kernel", 5, 0.1, kernel=2, distil=1.0),
    PhasePlan("depth-1", 5, 0.1, archs=2, kernel=2, depth=2, distil=1.0),
    PhasePlan("depth-2", 5, 0.1, archs=2, kernel=2, depth=3, distil=1.0),
    PhasePlan("expand-1", 5, 0.1, archs=4, kernel=2, depth=3, expand=2, distil=1.0),
    PhasePlan("expand-2", 5, 0.1, archs=4, kernel=2, depth=3, expand=3, distil=1.0),
]


def drawn(phase: Phase, seed: int, step: int) -> list[Arch]:
    """The archs of a step, each without other candidates."""
    return [arch for (arch,) in phase.draw(seed, step)]


def formed(phase: Phase) -> tuple[int, int] | None:
    """Expand ratios and widths in use when the channels are sorted."""
    counts = phase.sort_channels
    return None if counts is None else (counts["expand"], counts["width"])


def test_phases_open_the_space_step_by_step() -> None:
    plan = curriculum(FAMILY.space, PLANS)
    assert plan.steps == 35
    sizes = [phase.space.size for phase in plan.phases]
    assert sizes == sorted(set(sizes))
    assert plan.phases[0].space.size == len(FAMILY.space.resolution)
    assert plan.phases[-1].space == FAMILY.space
    assert [p.sort_channels is None for p in plan.phases] == [True] * 4 + [False] * 2
    assert [formed(p) for p in plan.phases[4:]] == [(1, 1), (2, 1)]


def test_how_many_choices_are_formed_does_not_depend_on_the_first_stage() -> None:
    """ResNet50's first stages, its stem, have no choice of expand ratios; the others three. Widths
    that were in use when the channels are sorted count, too."""
    space = families.get("ofa_resnet50").space
    shares = [
        PhasePlan("largest", 1, 0.1),
        PhasePlan("expand-1", 1, 0.1, expand=2),
        PhasePlan("width", 1, 0.1, expand=2, width=2),
        PhasePlan("back", 1, 0.1, expand=1, width=1),
        PhasePlan("expand-2", 1, 0.1, expand=3, width=3),
        PhasePlan("all", 1, 0.1, expand=5, width=3),
    ]
    plan = curriculum(space, shares)
    assert [formed(p) for p in plan.phases] == [None, (1, 1), None, None, (2, 2), None]


def test_phases_open_genes_of_any_kind() -> None:
    there = Presence("depth", 2)
    genes = [Gene("resolution", (16, 32)), Gene("depth", (1, 2)), Gene("act", ("relu", "gelu"))]
    genes += [Gene("block1.heads", (1, 2, 3)), Gene("block2.heads", (1, 2, 3), there)]
    space = Space("vit", tuple(genes))
    shares = [
        PhasePlan("largest", 1, 0.1),
        PhasePlan("heads", 1, 0.1, open={"heads": 2}),
        PhasePlan("all", 1, 0.1, depth=2, open={"heads": 3, "act": 2}),
    ]
    phases = curriculum(space, shares).phases
    # by hand: two resolutions; heads of two blocks; with the depth, one block or two
    assert [phase.space.size for phase in phases] == [2, 2 * 2 * 2, 2 * 2 * (3 + 9)]
    assert {str(a) for (a,) in phases[0].draw(0, 0)} <= {str(a) for a in phases[0].space}
    # without stages any choice may resize channels, so what is in use so far is kept in place
    assert [phase.sort_channels for phase in phases] == [
        None,
        {"resolution": 1, "depth": 1, "act": 1, "heads": 1},
        {"resolution": 1, "depth": 1, "act": 1, "heads": 2},
    ]
    everything = curriculum(space, [PhasePlan("every", 1, 0.1, open={"all": 9})]).phases[0]
    assert everything.space == space
    assert curriculum(FAMILY.space, [PhasePlan("a", 1, 0.1, open={"expand": 2})]).phases[
        0
    ].space == FAMILY.space.top(kernel=1, depth=1, expand=2, width=1)
    with pytest.raises(InputError, match="phase odd: vit has no 'kernel' to open; it has act,"):
        curriculum(space, [PhasePlan("odd", 1, 0.1, kernel=2)])


def test_steps_fall_into_phases() -> None:
    plan = curriculum(FAMILY.space, PLANS)
    assert plan.at(0) == (plan.phases[0], 0)
    assert plan.at(9) == (plan.phases[0], 9)
    assert plan.at(10) == (plan.phases[1], 0)
    assert plan.at(34) == (plan.phases[5], 4)
    with pytest.raises(IndexError):
        plan.at(35)


def test_batches_taken_by_steps() -> None:
    """One a step, or as many as archs where each has images of its own."""
    shares = [
        PhasePlan("a", 4, 0.1, archs=2),
        PhasePlan("b", 3, 0.1, archs=5, own_images=True),
        PhasePlan("c", 2, 0.1),
    ]
    plan = curriculum(FAMILY.space, shares)
    assert [plan.batches_before(s) for s in range(10)] == [0, 1, 2, 3, 4, 9, 14, 19, 20, 21]


def test_archs_of_a_step_share_a_resolution_and_depend_on_seed_and_step_only() -> None:
    phase = curriculum(FAMILY.space, PLANS).phases[-1]
    seen = set()
    for step in range(40):
        archs = drawn(phase, 3, step)
        assert len(archs) == 4
        assert len({arch.resolution for arch in archs}) == 1
        assert all(arch in phase.space for arch in archs)
        assert archs == drawn(phase, 3, step)
        seen |= {arch.resolution for arch in archs}
    assert drawn(phase, 3, 0) != drawn(phase, 4, 0)
    assert seen == set(FAMILY.space.resolution)


def test_sandwich_holds_both_ends() -> None:
    phase = Phase("all", FAMILY.space, 10, archs=4, lr=0.1, rule="sandwich")
    archs = drawn(phase, 0, 5)
    assert archs[:2] == [FAMILY.space.largest(), FAMILY.space.smallest()]
    assert len(archs) == 4
    sizes = {arch.resolution for step in range(30) for arch in drawn(phase, 0, step)[2:]}
    assert sizes == set(FAMILY.space.resolution)


def test_ends_alternate() -> None:
    phase = Phase("all", FAMILY.space, 10, archs=3, lr=0.1, rule="alternate")
    for step in range(4):
        first, *others = drawn(phase, 0, step)
        assert first == (FAMILY.space.smallest() if step % 2 else FAMILY.space.largest())
        assert len(others) == 2
        assert others != drawn(phase, 0, step + 1)[1:]
    sizes = {arch.resolution for step in range(30) for arch in drawn(phase, 0, step)[1:]}
    assert sizes == set(FAMILY.space.resolution)


def test_learning_rate_by_hand() -> None:
    phase = curriculum(FAMILY.space, PLANS).phases[0]
    assert phase.learning_rate(0) == pytest.approx(0.2)
    assert phase.learning_rate(1) == pytest.approx(0.4)
    assert phase.learning_rate(2) == pytest.approx(0.4)
    assert phase.learning_rate(6) == pytest.approx(0.2)
    assert phase.learning_rate(9) == pytest.approx(0.2 * (1 + math.cos(math.pi * 7 / 8)))


def test_the_papers_recipe_has_the_papers_phases() -> None:
    """Paper, section 4.1, and the authors' training script, by hand. The script loops over
    `n_epochs + warmup_epochs`: 120 + 5 (kernel, depth 2, expand 2) and 25 + 0 (depth 1, expand 1);
    its learning rates are of one GPU of 32: 32 x 0.03, 32 x 0.0025, 32 x 0.0075."""
    phases = load_settings("paper").phases
    epochs = [185, 125, 25, 125, 25, 125]
    assert sum(epochs) == 610
    assert [(p.name, p.archs, p.lr) for p in phases] == [
        ("largest", 1, 2.6),
        ("kernel", 1, 0.96),
        ("depth-1", 2, 0.08),
        ("depth-2", 2, 0.24),
        ("expand-1", 4, 0.08),
        ("expand-2", 4, 0.24),
    ]
    shares = [p.plan(10 * 2048, 2048) for p in phases]  # 10 steps an epoch
    assert [s.steps for s in shares] == [10 * n for n in epochs]
    assert [s.warmup for s in shares] == [50, 50, 0, 50, 0, 50]
    # ImageNet without 10,000 images of validation: 1,271,167 / 2048 = 620.687 steps an epoch
    kernel = phases[1].plan(1_271_167, 2048)
    assert (kernel.steps, kernel.warmup) == (77_586, 3_103)


def test_the_papers_learning_rate_by_hand() -> None:
    """Linear over 5 epochs, then 0.5 (1 + cos(pi t / T)) with T the 120 epochs that follow."""
    shares = [p.plan(10 * 2048, 2048) for p in load_settings("paper").phases]
    kernel = curriculum(families.get("ofa_mbv3_w1.0").space, shares).phases[1]
    assert kernel.learning_rate(0) == pytest.approx(0.96 / 50)
    assert kernel.learning_rate(49) == pytest.approx(0.96)
    assert kernel.learning_rate(50) == pytest.approx(0.96)
    assert kernel.learning_rate(50 + 400) == pytest.approx(0.96 * 0.75)  # a third: cos is 1/2
    assert kernel.learning_rate(50 + 600) == pytest.approx(0.96 * 0.5)
    assert kernel.learning_rate(50 + 800) == pytest.approx(0.96 * 0.25)


def test_the_learning_rate_falls_as_far_as_it_is_asked_to() -> None:
    """By hand: half of the cosine is (1 + 0.2) / 2 of the peak; and per 256 images, for 64."""
    phase = Phase("a", FAMILY.space, 10, archs=1, lr=0.4, lr_last=0.2)
    assert phase.learning_rate(0) == pytest.approx(0.4)
    assert phase.learning_rate(5) == pytest.approx(0.4 * 0.6)
    assert phase.learning_rate(10) == pytest.approx(0.08)
    plan = load_settings("small").phases[0].plan(1000, 64, lr_per=256)
    assert plan.lr == pytest.approx(0.6 / 4)


def test_coupled_choices_have_the_rank_of_their_depth() -> None:
    """In CompOFA's space of MobileNetV3: depths 2, 3, 4 with expand ratios 3, 4, 6 of a whole
    stage; kernels are free. 3 of 3 x 5 stages, so many networks at each resolution and kernel."""
    space = families.get("ofa_mbv3_w1.0", resolutions=(128, 160)).space
    plan = PhasePlan("all", 1, 0.1, archs=200, kernel=3, depth=3, expand=3, couple=("expand",))
    phase = curriculum(space, [plan]).phases[0]
    found = set()
    kernels = set()
    for arch in drawn(phase, 0, 0):
        assert arch in space
        for stage in arch.stages:
            (expand,) = {block.expand for block in stage}
            assert expand == {2: 3, 3: 4, 4: 6}[len(stage)]
            kernels |= {block.kernel for block in stage}
        found.add(arch.depths)
    assert kernels == {3, 5, 7}
    assert len(found) > 100
    with pytest.raises(InputError, match=r"couple: .* has no 'heads' that goes with a depth"):
        curriculum(space, [PhasePlan("all", 1, 0.1, couple=("heads",))])
    closed = PhasePlan("all", 1, 0.1, expand=3, couple=("expand",))
    with pytest.raises(InputError, match=r"phase all: couple: 'expand' has no depth to go with"):
        curriculum(space, [closed])


def test_candidates_have_nearly_the_same_macs() -> None:
    table, space = cost_table(FAMILY, "macs"), FAMILY.space

    def macs(archs: Sequence[Arch]) -> NDArray[np.float64]:
        return table(space.encode(archs))

    plan = PhasePlan("all", 1, 0.1, archs=4, kernel=2, depth=3, expand=3, candidates=5)
    phase = curriculum(space, [plan], macs).phases[0]
    everywhere = macs(space.decode(space.sample(np.random.default_rng(0), 1000)))
    targets: list[float] = []
    spreads: list[float] = []
    for step in range(20):
        slots = phase.draw(0, step)
        assert slots == phase.draw(0, step)
        assert [len(slot) for slot in slots] == [5] * 4
        for slot in slots:
            assert len({arch.resolution for arch in slot}) == 1
            spreads.append(np.ptp(macs(slot)))
            targets.append(macs(slot)[0])
    assert np.median(spreads) < 0.1 * everywhere.std()  # in the tails of the space there are few
    assert np.std(targets) == pytest.approx(everywhere.std(), rel=0.35)  # as the space has them


def test_the_sandwich_draws_candidates_for_the_middle_alone() -> None:
    table, space = cost_table(FAMILY, "macs"), FAMILY.space
    plan = PhasePlan("all", 1, 0.1, archs=4, rule="sandwich", candidates=3, open={"all": 9})
    phase = curriculum(space, [plan], lambda archs: table(space.encode(archs))).phases[0]
    assert [len(slot) for slot in phase.draw(0, 0)] == [1, 1, 3, 3]
