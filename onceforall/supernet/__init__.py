"""The supernet: it lends weights, and networks taken from it are calibrated and evaluated.

`supernet` lends and extracts, `weights` keeps supernets and networks in checkpoint files,
`calibration` and `evaluation` know a static network and batches, `tasks` says by which metric it
is judged, `scoring` is the one path from an arch to its score.
"""

from onceforall.supernet.calibration import ESTIMATORS, calibrate
from onceforall.supernet.evaluation import evaluate
from onceforall.supernet.scoring import (
    calibrated,
    placing,
    score,
    torch_device,
    unlabelled_batches,
)
from onceforall.supernet.supernet import SuperNet
from onceforall.supernet.tasks import CLASSIFICATION, TOP1, Metric, Score, Task
from onceforall.supernet.weights import (
    load_exactly,
    load_network,
    load_supernet,
    save_network,
    save_supernet,
)

__all__ = [
    "CLASSIFICATION",
    "ESTIMATORS",
    "Metric",
    "Score",
    "SuperNet",
    "TOP1",
    "Task",
    "calibrate",
    "calibrated",
    "evaluate",
    "load_exactly",
    "load_network",
    "load_supernet",
    "placing",
    "save_network",
    "save_supernet",
    "score",
    "torch_device",
    "unlabelled_batches",
]
