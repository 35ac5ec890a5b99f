"""Networks that nobody wrote for us: timm's, against torch's own counter and hand counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from onceforall.costs import cost
from onceforall.errors import InputError

timm = pytest.importorskip("timm")

# What torch counts and a delivered network holds ready, by hand: products of parameters alone.
POSITIONS = {
    # a 1x1 convolution of 64 sines of a position to the block's channels
    "edgenext_small": 32 * 32 * 64 * 96,
    "xcit_nano_12_p16_224": 14 * 14 * 64 * 128,
    # for each of 15x15 distances in a window an MLP from 2 numbers to 512 to a number a head
    "swinv2_tiny_window8_256": sum(
        blocks * 15 * 15 * 512 * (2 + heads) for blocks, heads in ((2, 3), (2, 6), (6, 12), (2, 24))
    ),
    # two attentions a block, and for each head 13x13 distances to 7x13, then to 7x7 by 7x7
    "maxvit_tiny_tf_224": sum(
        blocks * 2 * heads * (7 * 7 * 13 * 13 + 7 * 7 * 7 * 7 * 13)
        for blocks, heads in ((2, 2), (2, 4), (5, 8), (2, 16))
    ),
}
MODELS = (
    *("resnet50", "regnety_032", "repvgg_a2", "mobilenetv3_large_100", "efficientnet_lite0"),
    *("ghostnet_100", "convnext_tiny", "edgenext_small", "mixer_s16_224", "poolformer_s12"),
    *("vit_tiny_patch16_224", "deit3_small_patch16_224", "swin_tiny_patch4_window7_224"),
    *("swinv2_tiny_window8_256", "pvt_v2_b0", "levit_128s", "xcit_nano_12_p16_224"),
    *("mobilevit_s", "coatnet_0_rw_224", "maxvit_tiny_tf_224", "tiny_vit_5m_224", "fastvit_t8"),
    *("botnet26t_256", "mvitv2_tiny"),
)


@pytest.mark.parametrize("name", MODELS)
def test_macs_and_parameters_are_those_that_torch_counts(name):
    with torch.device("meta"):
        network = timm.create_model(name).eval()
    shape = network.default_cfg["input_size"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *shape, device="meta"))
    found = cost(network, shape)
    assert 2 * (found.macs + POSITIONS.get(name, 0)) == counter.get_total_flops()
    assert found.params == sum(p.numel() for p in network.parameters())
    assert sum(row.macs for row in found.rows) == found.macs
    assert sum(row.params for row in found.rows) == found.params
    assert found.uncovered == ()
    assert found.output_shape == (network.num_classes,)
    assert found.peak_activation_bytes == max(row.alive_bytes for row in found.rows)


def test_the_memory_of_a_vision_transformer_by_hand():
    """197 tokens of 192 numbers, 3 heads. It is fullest at the softmax of a block: the weights
    before and after it, what `qkv` gave, of which the values are a part, and the block's input,
    which the shortcut needs."""
    with torch.device("meta"):
        network = timm.create_model("vit_tiny_patch16_224").eval()
    found = cost(network, (3, 224, 224))
    tokens, weights = 197 * 192, 3 * 197 * 197
    assert found.peak_activation_bytes == 4 * (3 * tokens + tokens + 2 * weights)


def test_an_input_that_does_not_fit_is_one_line():
    with torch.device("meta"):
        network = timm.create_model("vit_tiny_patch16_224")
    with pytest.raises(InputError, match=r"^VisionTransformer: cannot be counted on an input of"):
        cost(network, (3, 160, 160))
