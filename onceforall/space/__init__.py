"""Which sub-networks there are, as values: `Arch`, `Gene`, `Space`. No weights, layers or torch.

A `Space` is a tuple of genes, some of them present only while another one, a depth, reaches
them. Sampling, mutation, validation, the exact size and the integer arrays that search works on
all derive from it. `Stage` is shorthand for the genes of convolutional families.
"""

from onceforall.space.arch import Arch
from onceforall.space.blocks import Place, places
from onceforall.space.genes import GENE, MOST_CHOICES, Gene, Population, Presence, Value
from onceforall.space.spaces import ResolutionError, Space
from onceforall.space.stages import Block, Stage
from onceforall.space.tables import Reduce, Table

__all__ = [
    "GENE",
    "MOST_CHOICES",
    "Arch",
    "Block",
    "Gene",
    "Place",
    "Population",
    "Presence",
    "Reduce",
    "ResolutionError",
    "Space",
    "Stage",
    "Table",
    "Value",
    "places",
]
