"""Where images come from, how they are split, transformed and batched. Knows no network."""

from onceforall.data.batches import SMALL, Images, Normalisation, Request, in_order
from onceforall.data.files import FileImages
from onceforall.data.folders import list_folder, list_images
from onceforall.data.held import HOLDS, HeldImages
from onceforall.data.loading import load, names, size_of
from onceforall.data.memory import MemoryImages
from onceforall.data.mixing import mix
from onceforall.data.order import BALANCES, class_weights, epoch_order
from onceforall.data.sources import (
    CONTENTS,
    Data,
    Source,
    changes_since,
    default_normalisation,
)

__all__ = [
    "BALANCES",
    "CONTENTS",
    "HOLDS",
    "SMALL",
    "Data",
    "FileImages",
    "HeldImages",
    "Images",
    "MemoryImages",
    "Normalisation",
    "Request",
    "Source",
    "changes_since",
    "class_weights",
    "default_normalisation",
    "epoch_order",
    "in_order",
    "list_folder",
    "list_images",
    "load",
    "mix",
    "names",
    "size_of",
]
