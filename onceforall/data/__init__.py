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
    digest_of,
    images_facts,
)
from onceforall.data.splits import Files

__all__ = [
    "BALANCES",
    "CONTENTS",
    "HOLDS",
    "SMALL",
    "Data",
    "FileImages",
    "Files",
    "HeldImages",
    "Images",
    "MemoryImages",
    "Normalisation",
    "Request",
    "Source",
    "changes_since",
    "default_normalisation",
    "digest_of",
    "epoch_order",
    "images_facts",
    "in_order",
    "is_loose",
    "list_folder",
    "list_images",
    "load",
    "mix",
    "names",
    "size_of",
]
