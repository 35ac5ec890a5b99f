"""What a person asks for: the demo, records of a run, a network specialised for a budget,
or trained further."""

from onceforall.pipeline.deliveries import budgets_of, picked, specialize_all, targets_of
from onceforall.pipeline.delivering import Card
from onceforall.pipeline.demonstration import demo
from onceforall.pipeline.evidence import Evidence
from onceforall.pipeline.finetuning import Finetuned, finetune, with_epochs
from onceforall.pipeline.fronts import Front, front_of
from onceforall.pipeline.gathering import gather_evidence
from onceforall.pipeline.homes import Home, home_of
from onceforall.pipeline.limits import Limits, refuse_impossible
from onceforall.pipeline.runs import Run, open_run, run_of
from onceforall.pipeline.specializing import specialize

__all__ = [
    "Card",
    "Evidence",
    "Finetuned",
    "Front",
    "Home",
    "Limits",
    "Run",
    "budgets_of",
    "demo",
    "finetune",
    "front_of",
    "gather_evidence",
    "home_of",
    "open_run",
    "picked",
    "refuse_impossible",
    "run_of",
    "specialize",
    "specialize_all",
    "targets_of",
    "with_epochs",
]
