"""What a person asks for: the demo, records of a run, a network specialised for a budget."""

from onceforall.pipeline.demonstration import demo
from onceforall.pipeline.runs import Run, open_run
from onceforall.pipeline.specializing import Limits, Special, refuse_impossible, specialize
from onceforall.pipeline.workshop import Workshop, open_workshop

__all__ = [
    "Limits",
    "Run",
    "Special",
    "Workshop",
    "demo",
    "open_run",
    "open_workshop",
    "refuse_impossible",
    "specialize",
]
