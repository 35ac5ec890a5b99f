"""Where images come from, how they are split, transformed and batched. Knows no network."""

from onceforall.data.folders import list_folder, list_images
from onceforall.data.images import (
    SMALL,
    FileImages,
    Images,
    MemoryImages,
    Normalisation,
    Request,
    in_order,
)
from onceforall.data.sources import (
    CONTENTS,
    Data,
    Source,
    changes_since,
    default_normalisation,
    load,
    names,
    size_of,
)

__all__ = [
    "CONTENTS",
    "SMALL",
    "Data",
    "FileImages",
    "Images",
    "MemoryImages",
    "Normalisation",
    "Request",
    "Source",
    "changes_since",
    "default_normalisation",
    "in_order",
    "list_folder",
    "list_images",
    "load",
    "names",
    "size_of",
]
