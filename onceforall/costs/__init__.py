"""What a network costs: MACs, parameters, peak activation memory; and as tables over a space.

A network is traced once by `torch.fx`; every operation of its graph has a rule, which turns
the shapes that enter into the shape that leaves and what it costs. No tensor is computed. An
operation without a rule, and a module that cannot be traced, is named in `Cost.uncovered`: of
such a one PyTorch says the shapes, the convolutions and matrix products that PyTorch's own
counter sees in it are counted, and the sums are lower bounds.

Units and conventions:
- One multiply-add of a convolution or a linear layer is one MAC; nothing else counts
  (squeeze-excite is made of convolutions). Biases are no MACs.
- `flops` is MMRazor's count of the same pass: MACs, one per output of a bias, two per
  output of a batch norm, one per output of a ReLU or ReLU6, one per input of a pooling;
  hard-swish and hard-sigmoid count nothing.
- `peak_activation_bytes`: float32, batch 1. At each operation, the sum of all tensors
  that are alive: those that this operation or a later one reads, and its output; the
  input image included, weights not. Batch norms, activations and other operations on
  single elements write in place, unless their input is read again later; views own
  nothing. Additions and products of two tensors have an output of their own.

Only the tables know a family; the rest knows an `nn.Module`.
"""

from onceforall.costs.network import FLOAT_BYTES, Cost, Row, cost, layer_cost
from onceforall.costs.rules import Shape
from onceforall.costs.tables import (
    check_resolution,
    cost_table,
    cost_tables,
    layer_table,
    unique_layers,
    whole_cost,
)

__all__ = [
    "FLOAT_BYTES",
    "Cost",
    "Row",
    "Shape",
    "check_resolution",
    "cost",
    "cost_table",
    "cost_tables",
    "layer_cost",
    "layer_table",
    "unique_layers",
    "whole_cost",
]
