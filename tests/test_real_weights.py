"""A published network with its real weights on real images: PyTorch and the exported file agree."""

from pathlib import Path

import numpy as np
import pytest
import torch

from onceforall import interop
from onceforall.data import FileImages, Normalisation, in_order, list_folder
from onceforall.devices.onnxruntime_cpu import load_session
from onceforall.export import export


@pytest.mark.data
@pytest.mark.slow
def test_onnx_ranks_every_image_as_pytorch_does(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "proxyless"
    network = interop.read_network(source / "proxyless-w0.3-r176_imagenet.json")
    module = interop.read_weights(source / "proxyless-w0.3-r176_imagenet.pth", *network)
    size = network.arch.resolution
    assert size == 176
    export(module, (3, size, size), tmp_path / "n.onnx")
    session = load_session(tmp_path / "n.onnx", 1)
    listed, classes = list_folder(data_dir / "imagenet_samples" / "val")
    assert len(classes) == 1000
    files = FileImages(
        listed.paths, listed.labels, Normalisation((0.5,) * 3, (0.5,) * 3), workers=2
    )
    hits = np.zeros(2, int)
    for x, y in files.stream(in_order(len(files), 50, size)):
        with torch.inference_mode():
            ours = module(x).topk(5).indices
        (logits,) = session.run(None, {"image": x.numpy()})
        theirs = torch.from_numpy(logits).topk(5).indices
        assert torch.equal(ours[:, 0], theirs[:, 0])
        assert torch.equal(
            (ours == y[:, None]).any(1),
            (theirs == y[:, None]).any(1),
        )
        found = theirs == y[:, None]
        hits += [int(found[:, 0].sum()), int(found.any(1).sum())]
    assert hits.tolist() == [613, 832]  # of 1000, as the authors' code counts (test_formats)
