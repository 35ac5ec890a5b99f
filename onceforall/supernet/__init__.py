"""The supernet: it lends weights, and networks taken from it are calibrated and evaluated.

`supernet` lends and extracts, `weights` keeps supernets and networks in checkpoint files,
`calibration` and `evaluation` know a static network and batches, `scoring` is the one path
from an arch to its accuracy.
"""

from onceforall.supernet.calibration import ESTIMATORS, calibrate
from onceforall.supernet.evaluation import Accuracy, evaluate
from onceforall.supernet.scoring import (
    accuracy,
    calibrated,
    placing,
    torch_device,
    unlabelled_batches,
)
from onceforall.supernet.supernet import SuperNet
from onceforall.supernet.weights import (
    load_exactly,
    load_network,
    load_supernet,
    save_network,
    save_supernet,
)

__all__ = [
    "ESTIMATORS",
    "Accuracy",
    "SuperNet",
    "accuracy",
    "calibrate",
    "calibrated",
    "evaluate",
    "load_exactly",
    "load_network",
    "load_supernet",
    "placing",
    "save_network",
    "save_supernet",
    "torch_device",
    "unlabelled_batches",
]
