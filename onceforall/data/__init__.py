"""Where images come from, how they are split, transformed and batched. Knows no network."""

from onceforall.data.batches import SMALL, Images, Normalisation, Request, in_order
from onceforall.data.files import FileImages
from onceforall.data.folders import list_folder, list_images
from onceforall.data.held import HOLDS, HeldImages
from onceforall.data.loading import is_loose, load, names, size_of
from onceforall.data.memory import MemoryImages
from onceforall.data.mixing import mix
from onceforall.data.order import BALANCES, epoch_order
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
    "default_normalisation",
    "epoch_order",
    "in_order",
    "is_loose",
    "list_folder",
    "list_images",
    "load",
    "mix",
    "names",
    "size_of",
]
