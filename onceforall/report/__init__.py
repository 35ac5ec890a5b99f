"""What a person looks at: cards, plots, and a run as one page (`gather`, `write_explorer`)."""

from onceforall.report.explorer import write_explorer
from onceforall.report.gathering import gather

__all__ = ["gather", "write_explorer"]
