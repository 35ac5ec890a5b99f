"""What a network costs: MACs, parameters, peak activation memory; and as tables over a space.

Any `nn.Module` is counted, on tensors that have shapes and no values. What nothing is known of is
named in `Cost.uncovered`, and the sums are lower bounds then.

Units and conventions:
- One multiply-add of a convolution or of a product of matrices is one MAC: of a linear layer, of
  both products of an attention, of whatever comes to such a product (`einsum`, an LSTM). Nothing
  else counts: no biases, norms, activations, softmax, poolings, embeddings, interpolations,
  scaling by a parameter.
- What does not depend on the image (a position bias made of parameters alone) costs nothing: a
  delivered network holds it ready. A parameter counts once, however many modules share it.
- `flops` is MMRazor's count of the same pass: MACs, one per output of a bias, two per
  output of a norm with weights (else one), one per output of a ReLU and its like, one per input
  of a pooling; hard-swish, hard-sigmoid and all others count nothing.
- `peak_activation_bytes`: float32, batch 1. At each operation, the sum of all tensors
  that are alive: those that this operation or a later one reads, and its output; the
  input image included, weights and what does not depend on the image not. Batch norms,
  activations and other operations on single elements of one tensor write in place, unless their
  input is read again later; views own nothing, nor does a padding that only convolutions and
  poolings read. Additions and products of two tensors, layer and
  group norms and softmax have an output of their own. An attention is its two products and the
  softmax between them, with its weights in memory, however it is written.

Only the tables know a family; the rest knows an `nn.Module`.
"""

from onceforall.costs.built import Counted
from onceforall.costs.network import cost, layer_cost
from onceforall.costs.result import FLOAT_BYTES, Cost, Row, Shape, by_layer
from onceforall.costs.tables import (
    arch_cost,
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
    "Counted",
    "Row",
    "Shape",
    "arch_cost",
    "by_layer",
    "check_resolution",
    "cost",
    "cost_table",
    "cost_tables",
    "layer_cost",
    "layer_table",
    "unique_layers",
    "whole_cost",
]
