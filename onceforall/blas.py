"""Linear algebra on one thread, for what multiplies and factorises many small matrices.

Threads of a BLAS that wait for each other cost more than they save there: two make a fit two to
five times as slow as one, more where other work runs. Knows no predictor and no search.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Found = TypeVar("Found")


def on_one_thread(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """`function`, during which NumPy and SciPy compute on one thread."""

    @wraps(function)
    def limited(*args: Given.args, **kwargs: Given.kwargs) -> Found:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
