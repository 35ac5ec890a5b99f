"""What an operation of PyTorch costs, as it comes to be computed (`aten`): a table.

What counts is said at the top of `costs`. An operation is known if it has a formula here or in
PyTorch's own table (`torch.utils.flop_counter`, to which anyone can add), if it works on single
elements, is a view, or is named here as one that multiplies nothing; all others are not covered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

Formula = Callable[..., int]  # called as the operation is, and with what it gave


def _pytorchs() -> Mapping[Any, Callable[..., Any]]:
    """PyTorch's table, which takes a while to import: Triton comes with it."""
    from torch.utils.flop_counter import flop_registry

    return flop_registry


def _product(a: int, b: int) -> Formula:
    """Of the matrices (..., n, k) and (..., k, m) at these places."""

    def macs(out: Tensor, *args: Any, **_: Any) -> int:
        return math.prod(args[a].shape) * int(args[b].shape[-1] if args[b].dim() > 1 else 1)

    return macs


def _conv(out: Tensor, image: Tensor, weight: Tensor, *args: Any, **_: Any) -> int:
    """Each weight is used once at each place: of what leaves, or of what enters a transposed
    convolution. `args`: bias, stride, padding, dilation, transposed, ..."""
    places = image if args[4] else out
    return len(image) * weight.numel() * math.prod(places.shape[2:])


def _attention(out: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Queries by keys, and weights by values, of (..., heads, length, size)."""
    *many, length, size = query.shape
    return math.prod(many) * length * key.shape[-2] * (size + value.shape[-1])


MACS: dict[str, Formula] = {
    "mm": _product(0, 1),
    "bmm": _product(0, 1),
    "mv": _product(0, 1),
    "dot": lambda out, a, b: a.numel(),
    "addmm": _product(1, 2),
    "addmv": _product(1, 2),
    "baddbmm": _product(1, 2),
    "addbmm": _product(1, 2),
    "convolution": _conv,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
}

NORMS = {  # name -> place of the weight, if any
    "native_batch_norm": 1,
    "_native_batch_norm_legit": 1,
    "_native_batch_norm_legit_no_training": 1,
    "cudnn_batch_norm": 1,
    "_batch_norm_with_update": 1,
    "_batch_norm_no_update": 1,
    "native_layer_norm": 2,
    "native_group_norm": 1,
    "_fused_rms_norm": 2,
}
BATCH_NORMS = {name for name in NORMS if "batch_norm" in name}
RECTIFIERS = {"relu", "hardtanh", "leaky_relu", "elu", "_prelu_kernel"}
POOLINGS = {
    "mean",
    *(f"avg_pool{d}d" for d in (1, 2, 3)),
    *(f"max_pool{d}d_with_indices" for d in (1, 2, 3)),
    *(f"_adaptive_avg_pool{d}d" for d in (2, 3)),
    *(f"adaptive_max_pool{d}d" for d in (2, 3)),
}
ELEMENTWISE = {"hardswish", "prelu", "rsub", "log_sigmoid_forward"}  # beside those so tagged
OTHERS = {  # multiply nothing, or as part of a norm or an interpolation
    *("_softmax", "_safe_softmax", "_log_softmax", "glu", "cumsum", "logcumsumexp"),
    *("sum", "amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "prod"),
    *("var", "var_mean", "std", "std_mean", "norm", "linalg_vector_norm", "logsumexp", "aminmax"),
    *("cat", "stack", "clone", "_to_copy", "copy", "fill", "zero", "repeat", "expand_copy"),
    *("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d"),
    *("replication_pad2d", "roll", "flip", "rot90", "tril", "triu", "pixel_shuffle"),
    *("pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "im2col", "col2im"),
    *("index", "index_select", "index_put", "gather", "scatter", "scatter_add", "slice_scatter"),
    *("select_scatter", "masked_scatter", "take", "embedding", "one_hot", "topk", "sort"),
    *(
        "repeat_interleave",
        "unsafe_split",
        "unsafe_split_with_sizes",
        "_unsafe_index",
        "bincount",
        "searchsorted",
    ),
    *("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact2d"),
    *("upsample_linear1d", "upsample_bilinear2d", "_upsample_bilinear2d_aa"),
    *("upsample_bicubic2d", "_upsample_bicubic2d_aa", "upsample_trilinear3d"),
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "bernoulli"),
    *("sym_size", "sym_numel", "sym_stride", "is_same_size", "_assert_async", "native_dropout"),
}
PADDINGS = {"constant_pad_nd"}  # which what reads them can do by itself:
PADS = {"convolution", *(name for name in POOLINGS if name != "mean")}
VIEWS = {"_unsafe_view", "_reshape_alias", "lift_fresh", "as_strided"}  # beside those that say so
SPOKEN = {"_local_scalar_dense": "item"}  # for people


@lru_cache(maxsize=4096)
def name_of(operation: Any) -> str:
    """Without namespace, overload, and the sign of writing in place: `aten.relu_.default` is
    relu."""
    name = str(operation._schema.name).partition("::")[2] or str(operation)
    plain = name.rstrip("_")
    return plain if plain and not name.endswith("__") else name


def spoken(operation: Any) -> str:
    """Its name for people."""
    name = name_of(operation)
    return SPOKEN.get(name, name)


@lru_cache(maxsize=4096)
def is_view(operation: Any) -> bool:
    """Whether what it gives lies where its input lies."""
    return bool(getattr(operation, "is_view", False)) or name_of(operation) in VIEWS


@lru_cache(maxsize=4096)
def is_made_of_others(operation: Any) -> bool:
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return bool(operation.has_kernel_for_dispatch_key(key))


@lru_cache(maxsize=4096)
def is_elementwise(operation: Any) -> bool:
    """Whether it works on single elements of the tensors that enter, one or several."""
    name = name_of(operation)
    return name not in OTHERS and (torch.Tag.pointwise in operation.tags or name in ELEMENTWISE)


@lru_cache(maxsize=4096)
def writes_in_place(operation: Any) -> bool:
    """Whether what it gives can lie where its input lay: batch norms, and what works on single
    elements of one tensor."""
    tensors = sum("Tensor" in str(argument.type) for argument in operation._schema.arguments)
    return name_of(operation) in BATCH_NORMS or (is_elementwise(operation) and tensors == 1)


def macs_of(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    formula = MACS.get(name_of(operation))
    if formula is not None:
        return formula(out, *args, **kwargs)
    packet = getattr(operation, "overloadpacket", operation)
    if packet in _pytorchs():
        return int(_pytorchs()[packet](*args, **kwargs, out_val=out)) // 2
    return 0


def flops_beside(operation: Any, args: Sequence[Any], out: Any) -> int:
    """What MMRazor counts beside the MACs."""
    name = name_of(operation)
    first = out[0] if isinstance(out, tuple | list) else out
    if name in NORMS:
        affine = args[NORMS[name]] is not None
        return (2 if affine else 1) * int(first.numel())
    if name in RECTIFIERS:
        return int(first.numel())
    if name in POOLINGS:
        return int(args[0].numel())
    biased = (name == "convolution" and args[2] is not None) or name == "addmm"
    return int(first.numel()) if biased else 0


def is_depthwise(operation: Any, args: Sequence[Any]) -> bool:
    """A convolution each of whose filters sees one channel of several."""
    return name_of(operation) == "convolution" and 1 < args[8] == args[0].shape[1]


@lru_cache(maxsize=4096)
def is_known(operation: Any) -> bool:
    name = name_of(operation)
    packet = getattr(operation, "overloadpacket", operation)
    return (
        name in MACS
        or name in NORMS
        or name in POOLINGS
        or name in OTHERS
        or is_elementwise(operation)
        or is_view(operation)
        or packet in _pytorchs()
    )
