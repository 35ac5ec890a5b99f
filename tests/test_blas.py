"""Linear algebra on one thread while a function runs, and as before after it."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from onceforall.blas import on_one_thread


def threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_one_thread_while_it_runs_and_as_before_after_it() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(2, user_api="blas"):
        if threads() != {2}:
            pytest.skip(f"this BLAS cannot be set to two threads: {threads()}")
        assert on_one_thread(threads)() == {1}
        assert threads() == {2}
        with pytest.raises(ZeroDivisionError):
            on_one_thread(lambda: 1 // 0)()
        assert threads() == {2}
