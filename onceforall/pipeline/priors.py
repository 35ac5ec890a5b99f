"""Another predictor of scores, given by a person, that ours are fitted on: `Prior`, named by what
is in its file. Knows nothing of records.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from onceforall.pipeline.recording import DIGEST
from onceforall.predictors import Predictor, load_prior
from onceforall.space import Space


@dataclass(frozen=True)
class Prior:
    """Another predictor of scores, whose output is one more feature of ours; `name` is that of its
    file, with a digest of what is in it."""

    predictor: Predictor
    name: str


def read_prior(path: Path, space: Space) -> Prior:
    """
    Raises:
        InputError: the file is damaged, or of a family whose archs are others.
    """
    predictor = load_prior(path, space)
    contents = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        contents.update(file.read_bytes() if file.is_file() else b"")
    return Prior(predictor, f"{path.name} {contents.hexdigest()[:DIGEST]}")
