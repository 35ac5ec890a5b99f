"""Which archs are trained when: progressive shrinking and the sandwich rule."""

import math

import pytest

from onceforall import config, families
from onceforall.curriculum import Phase, Share, curriculum
from onceforall.errors import InputError
from onceforall.space import Gene, Presence, Space

FAMILY = families.get("mbv3_mini")
SHARES = [
    Share("largest", 10, 0.4, warmup=2),
    Share("kernel", 5, 0.1, kernel=2, distil=1.0),
    Share("depth-1", 5, 0.1, archs=2, kernel=2, depth=2, distil=1.0),
    Share("depth-2", 5, 0.1, archs=2, kernel=2, depth=3, distil=1.0),
    Share("expand-1", 5, 0.1, archs=4, kernel=2, depth=3, expand=2, distil=1.0),
    Share("expand-2", 5, 0.1, archs=4, kernel=2, depth=3, expand=3, distil=1.0),
]


def test_phases_open_the_space_step_by_step() -> None:
    plan = curriculum(FAMILY.space, SHARES)
    assert plan.steps == 35
    sizes = [phase.space.size for phase in plan.phases]
    assert sizes == sorted(set(sizes))
    assert plan.phases[0].space.size == len(FAMILY.space.resolution)
    assert plan.phases[-1].space == FAMILY.space
    assert [p.sort_channels for p in plan.phases] == [None, None, None, None, (4,), (3, 4)]


def test_phases_open_genes_of_any_kind() -> None:
    there = Presence("depth", 2)
    genes = [Gene("resolution", (16, 32)), Gene("depth", (1, 2)), Gene("act", ("relu", "gelu"))]
    genes += [Gene("block1.heads", (1, 2, 3)), Gene("block2.heads", (1, 2, 3), there)]
    space = Space("vit", tuple(genes))
    shares = [
        Share("largest", 1, 0.1),
        Share("heads", 1, 0.1, open={"heads": 2}),
        Share("all", 1, 0.1, depth=2, open={"heads": 3, "act": 2}),
    ]
    phases = curriculum(space, shares).phases
    # by hand: two resolutions; heads of two blocks; with the depth, one block or two
    assert [phase.space.size for phase in phases] == [2, 2 * 2 * 2, 2 * 2 * (3 + 9)]
    assert {str(a) for a in phases[0].sample(0, 0)} <= {str(a) for a in phases[0].space}
    assert [phase.sort_channels for phase in phases] == [None] * 3
    assert curriculum(FAMILY.space, [Share("a", 1, 0.1, open={"expand": 2})]).phases[
        0
    ].space == FAMILY.space.top(kernel=1, depth=1, expand=2, width=1)
    with pytest.raises(InputError, match="phase odd: vit has no 'kernel' to open; it has act,"):
        curriculum(space, [Share("odd", 1, 0.1, kernel=2)])


def test_steps_fall_into_phases() -> None:
    plan = curriculum(FAMILY.space, SHARES)
    assert plan.at(0) == (plan.phases[0], 0)
    assert plan.at(9) == (plan.phases[0], 9)
    assert plan.at(10) == (plan.phases[1], 0)
    assert plan.at(34) == (plan.phases[5], 4)
    with pytest.raises(IndexError):
        plan.at(35)


def test_batches_taken_by_steps() -> None:
    """One a step, or as many as archs where each has images of its own."""
    shares = [
        Share("a", 4, 0.1, archs=2),
        Share("b", 3, 0.1, archs=5, own_images=True),
        Share("c", 2, 0.1),
    ]
    plan = curriculum(FAMILY.space, shares)
    assert [plan.batches_before(s) for s in range(10)] == [0, 1, 2, 3, 4, 9, 14, 19, 20, 21]


def test_archs_of_a_step_share_a_resolution_and_depend_on_seed_and_step_only() -> None:
    phase = curriculum(FAMILY.space, SHARES).phases[-1]
    seen = set()
    for step in range(40):
        archs = phase.sample(3, step)
        assert len(archs) == 4
        assert len({arch.resolution for arch in archs}) == 1
        assert all(arch in phase.space for arch in archs)
        assert archs == phase.sample(3, step)
        seen |= {arch.resolution for arch in archs}
    assert phase.sample(3, 0) != phase.sample(4, 0)
    assert seen == set(FAMILY.space.resolution)


def test_sandwich_holds_both_ends() -> None:
    phase = Phase("all", FAMILY.space, 10, archs=4, lr=0.1, rule="sandwich")
    archs = phase.sample(0, 5)
    assert archs[:2] == [FAMILY.space.largest(), FAMILY.space.smallest()]
    assert len(archs) == 4
    drawn = {arch.resolution for step in range(30) for arch in phase.sample(0, step)[2:]}
    assert drawn == set(FAMILY.space.resolution)


def test_ends_alternate() -> None:
    phase = Phase("all", FAMILY.space, 10, archs=3, lr=0.1, rule="alternate")
    for step in range(4):
        first, *drawn = phase.sample(0, step)
        assert first == (FAMILY.space.smallest() if step % 2 else FAMILY.space.largest())
        assert len(drawn) == 2
        assert drawn != phase.sample(0, step + 1)[1:]
    sizes = {arch.resolution for step in range(30) for arch in phase.sample(0, step)[1:]}
    assert sizes == set(FAMILY.space.resolution)


def test_learning_rate_by_hand() -> None:
    phase = curriculum(FAMILY.space, SHARES).phases[0]
    assert phase.learning_rate(0) == pytest.approx(0.2)
    assert phase.learning_rate(1) == pytest.approx(0.4)
    assert phase.learning_rate(2) == pytest.approx(0.4)
    assert phase.learning_rate(6) == pytest.approx(0.2)
    assert phase.learning_rate(9) == pytest.approx(0.2 * (1 + math.cos(math.pi * 7 / 8)))


def test_the_papers_recipe_has_the_papers_phases() -> None:
    """Paper, section 4.1 and the authors' training script: epochs, sub-networks a batch."""
    phases = config.load("paper").phases
    assert [(p.name, p.epochs, p.archs) for p in phases] == [
        ("largest", 180, 1),
        ("kernel", 120, 1),
        ("depth-1", 25, 2),
        ("depth-2", 120, 2),
        ("expand-1", 25, 4),
        ("expand-2", 120, 4),
    ]
