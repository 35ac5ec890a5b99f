"""What a person looks at: cards, plots, and a run as one page (`gather`, `write_explorer`)."""

from onceforall.report.explorer import write_explorer
from onceforall.report.gathering import gather
from onceforall.report.profiling import profile_delivered

__all__ = ["gather", "profile_delivered", "write_explorer"]
