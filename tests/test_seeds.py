"""Seeds: one for each purpose, step and rank."""

from onceforall.training.seeds import seed_of


def test_seeds_do_not_meet() -> None:
    """Of neighbouring seeds, steps and ranks, also of more ranks than 64, and of purposes."""
    seeds = {
        seed_of(purpose, seed, step, rank)
        for purpose in ("dropout", "augmentation")
        for seed in range(3)
        for step in range(200)
        for rank in range(130)
    }
    assert len(seeds) == 2 * 3 * 200 * 130
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_numbers_are_kept_apart() -> None:
    assert seed_of("a", 1, 0) != seed_of("a", 1)
    assert seed_of("a", 12, 3) != seed_of("a", 1, 23)


def test_seeds_are_the_same_everywhere() -> None:
    """BLAKE2b of `dropout 0 7 1` in 8 bytes, by coreutils (b2sum -l 64), without its last bit."""
    assert seed_of("dropout", 0, 7, 1) == 0xC5D25146F686A5E7 >> 1
