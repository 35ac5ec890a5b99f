"""Another task than classification, in a person's file: labels of pixels, scored by mean IoU."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import jaccard_score
from torch import Tensor

from onceforall import families, training
from onceforall.data import Data, Images, Normalisation, Request, in_order
from onceforall.devices import Target
from onceforall.errors import InputError
from onceforall.export.onnx import load as load_onnx
from onceforall.families import Family
from onceforall.pipeline import Limits, Run, gather_evidence, open_run, specialize
from onceforall.records import read_jsonl
from onceforall.report.networks import network_table
from onceforall.space import Arch
from onceforall.supernet import (
    CLASSIFICATION,
    Score,
    SuperNet,
    Task,
    calibrated,
    evaluate,
    load_network,
    save_supernet,
    score,
    tasks,
)
from onceforall.testing import check_family
from onceforall.training import load_settings

CLASSES = 3
PARTS = ("train", "validation", "test")
FILE = '''
import torch
import torch.nn.functional as F
from torch import nn
from onceforall import elastic
from onceforall.supernet.tasks import Metric, Task, labels_loss, soft_labels_loss


def sized(outputs, other):
    """(N, C, H, W) at the height and width of others: smaller networks of a step of training may
    get smaller images, and all get the same labels."""
    return F.interpolate(outputs, other.shape[-2:], mode="bilinear")


def loss(outputs, labels, smoothing):
    return labels_loss(sized(outputs, labels), labels, smoothing)


def distil(outputs, teacher):
    return soft_labels_loss(sized(outputs, teacher), teacher)


def confusion(outputs, labels):
    """(N, C, H, W), (N, H, W) -> pixels, then how many of each label were called each class."""
    outputs, classes = sized(outputs, labels), outputs.shape[1]
    cells = (labels.to(outputs.device) * classes + outputs.argmax(1)).flatten()
    counts = torch.zeros(classes**2, dtype=torch.float64, device=outputs.device)
    counts.index_add_(0, cells, torch.ones_like(cells, dtype=torch.float64))
    return torch.cat([counts.sum()[None], counts])


def mean_iou(sums):
    counts = sums[1:].reshape(2 * (round((len(sums) - 1) ** 0.5),))
    both = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - both
    there = either > 0
    shares = both[there] / either[there]
    return {"miou": float(shares.mean()), "pixels_right": float(both.sum() / sums[0])}


metric = Metric("miou", "mean IoU", "", confusion, mean_iou)
pixels = Task("pixels", loss, metric, distil)


def build(width, depth):
    """Fully convolutional: (N, 3, R, R) -> (N, 3 classes, R, R)."""
    layers = [nn.Conv2d(3, width, 1)]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(nn.Sequential(*layers), nn.Conv2d(width, 3, 1))


family = elastic(build, width=(2, 3, 4), depth=(1, 2, 3), resolution=(12, 16))
'''


@dataclass
class PixelImages:
    """Images (N, 3, S, S) of bytes, each pixel with a label (N, S, S)."""

    pixels: Tensor
    labels: Tensor
    unreadable: list[Path] = field(default_factory=list)
    is_held: bool = True

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, indices: Sequence[int]) -> Images:
        return PixelImages(self.pixels[list(indices)], self.labels[list(indices)])

    def prepared(self, largest: int, device: object = None, held: bool | None = None) -> Images:
        return self

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        for request in requests:
            x, y = self.pixels[list(request.indices)], self.labels[list(request.indices)]
            size = (request.resolution, request.resolution)
            y = F.interpolate(y[:, None].float(), size, mode="nearest")[:, 0].long()
            yield F.interpolate(x.float() / 255, size, mode="nearest"), y


def images(n: int, seed: int) -> PixelImages:
    """The label of a pixel is its brightest colour, before noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, CLASSES, (n, 4, 4), generator=generator)
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    bright = 128 * F.one_hot(labels, CLASSES).permute(0, 3, 1, 2)
    noise = torch.randint(0, 128, bright.shape, generator=generator)
    return PixelImages((bright + noise).byte(), labels)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "my_task.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def family(file: Path) -> Family:
    return families.get(f"{file}:family")


@pytest.fixture(scope="module")
def task(file: Path) -> Task:
    return tasks.get(f"{file}:pixels")


@pytest.fixture(scope="module")
def data() -> Data:
    parts = [images(n, seed) for seed, n in enumerate((60, 30, 25))]
    colours = ("red", "green", "blue")
    scale = Normalisation((0.0,) * 3, (1.0,) * 3)
    contents = {part: {"all": [len(x), part]} for part, x in zip(PARTS, parts, strict=True)}
    return Data("colours", *parts, colours, 3, 16, scale, contents)


@pytest.fixture(scope="module")
def run(file: Path, data: Data) -> Run:
    """Trained a little, as a config says."""
    phase = "name: all, steps: 30, lr: 0.1, archs: 2, rule: sandwich, distil: 1.0, open: {all: 3}"
    changes = [
        f"family={file}:family",
        f"task={file}:pixels",
        "data.name=colours",
        "batch_size=30",
        f"phases=[{{{phase}}}]",
    ]
    out = training.train(file.parent / "run", load_settings("any", changes), data)
    assert {"train_miou", "miou_largest", "miou_smallest"} <= set(out.metrics)
    return open_run(out.run)


@pytest.fixture(scope="module")
def supernet(run: Run) -> SuperNet:
    return run.supernet


def by_sklearn(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    called = torch.cat([out.argmax(1).flatten() for out in outputs])
    return float(jaccard_score(torch.cat([y.flatten() for y in targets]), called, average="macro"))


def test_by_hand(task: Task) -> None:
    """Labels 0 0 1 2, called 0 1 1 1: of class 0 one of two, of 1 one of three, of 2 none of one.
    The mean is that of the sums of both batches, not of their means (1/2 and 1/4)."""
    called = F.one_hot(torch.tensor([[[0, 1]], [[1, 1]]]), 3).permute(0, 3, 1, 2).float()
    labels = torch.tensor([[[0, 0]], [[1, 2]]])
    batches = [(called[i : i + 1], labels[i : i + 1]) for i in range(2)]
    found = evaluate(lambda x: x, batches, task.metric)
    assert found.value == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert (found.n, found.images, found.values["pixels_right"]) == (4, 2, 0.5)
    assert found.stderr is None  # pixels are not drawn one by one
    first, second = (evaluate(lambda x: x, [batch], task.metric) for batch in batches)
    assert (first.value, second.value) == (pytest.approx(1 / 4), pytest.approx(1 / 4))
    assert first + second == found
    assert task.metric.text(found.value) == "0.2778"


def test_extracted_calibrated_and_scored(
    family: Family, supernet: SuperNet, data: Data, task: Task
) -> None:
    assert family.classes == CLASSES
    check_family(family, archs=3)
    values = []
    for arch in (family.space.smallest(), family.space.largest()):
        network = calibrated(supernet, arch, data)
        found = score(network, arch.resolution, data.validation, task.metric, batch=7)
        batches = list(data.validation.stream(in_order(30, 30, arch.resolution)))
        with torch.no_grad():
            outputs = [network(x) for x, _ in batches]
        assert found.value == pytest.approx(by_sklearn(outputs, [y for _, y in batches]))
        assert (found.n, found.images) == (30 * arch.resolution**2, 30)
        values.append(found.value)
    assert 0.1 < min(values) < max(values) < 1


def test_records_predictors_and_a_delivered_file(
    run: Run, supernet: SuperNet, data: Data, task: Task, tmp_path: Path
) -> None:
    evidence = gather_evidence(
        run, data, Target(), score_samples=14, latency_samples=14, images=20, on="cpu"
    )
    records = read_jsonl(run.score_file)
    assert {(r.metric, r.unit) for r in records} == {("miou", "")}
    assert len({r.arch for r in records}) == 14
    assert (evidence.score_predictor.metric, evidence.score_predictor.unit) == ("miou", "")
    predicted = evidence.score_predictor.predict(evidence.score_labels.population).mean
    assert np.abs(predicted - evidence.score_labels.values).max() < 0.3
    found = specialize(evidence, Limits(params=200), tmp_path / "out")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["miou_validation"] == found.validation == evidence.scores[found.arch]
    assert (card["miou_predicted"], card["miou_test"]) == (found.predicted, found.test)
    assert card["test_images"] == 25
    assert not any("top1" in key for key in card)
    batches = list(data.test.stream(in_order(25, 25, found.arch.resolution)))
    outputs = [torch.as_tensor(load_onnx(tmp_path / "out" / "network.onnx")(x)) for x, _ in batches]
    assert found.test == pytest.approx(by_sklearn(outputs, [y for _, y in batches]), abs=1e-3)
    assert whole(supernet, found.arch, data, task).value == pytest.approx(found.validation)
    network, _, facts = load_network(tmp_path / "out" / "network.safetensors")
    assert facts["task"] == task.name
    assert torch.allclose(network(batches[0][0]), outputs[0], atol=1e-4)
    (declared,) = onnx.load(tmp_path / "out" / "network.onnx").graph.output
    assert len(declared.type.tensor_type.shape.dim) == 4
    assert "mean IoU" in network_table([found.to_dict()], task.metric)


def whole(supernet: SuperNet, arch: Arch, data: Data, task: Task) -> Score:
    network = calibrated(supernet, arch, data)
    return score(network, arch.resolution, data.validation, task.metric)


def test_tasks_are_found_by_name(tmp_path: Path, task: Task) -> None:
    assert tasks.get("classification") is CLASSIFICATION
    assert task.name == "my_task.py:pixels"
    assert tasks.get(task.name) == task  # without its folder, since it was read before
    path = tmp_path / "others.py"
    path.write_text(FILE)
    for name, message in (
        ("boxes", "task: 'boxes' is not known; there are classification, and FILE.py:NAME for"),
        (f"{path}:boxes", f"task: {path} has no 'boxes'; tasks in it: pixels"),
        (f"{path}:metric", "task: others.py:metric: is Metric; it must be a Task"),
        ("nowhere.py:task", "task: nowhere.py:task: no file nowhere.py here"),
    ):
        with pytest.raises(InputError) as error:
            tasks.get(name)
        assert str(error.value).startswith(message)


def test_a_run_says_what_it_was_trained_for(run: Run, task: Task, tmp_path: Path) -> None:
    assert run.task == task
    path = tmp_path / "supernet.safetensors"
    old = {k: v for k, v in run.facts["training"].items() if k != "task"}
    save_supernet(path, run.supernet, {"training": old})
    assert open_run(tmp_path).task is CLASSIFICATION
    path.unlink()
    save_supernet(path, run.supernet, {"training": {**old, "task": "boxes"}})
    with pytest.raises(InputError, match=r"supernet.safetensors: task: 'boxes' is not known"):
        open_run(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_batches_are_not_waited_for(
    family: Family, supernet: SuperNet, data: Data, task: Task
) -> None:
    """Between the first batch and the sums of all, nothing makes the host wait for the GPU."""
    network = calibrated(supernet, family.space.largest(), data).cuda()
    expected = score(network, 16, data.validation, task.metric)

    def sums(outputs: Tensor, targets: Tensor) -> Tensor:
        torch.cuda.set_sync_debug_mode("error")  # from here on, until all batches are through
        return task.metric.sums(outputs, targets)

    class Watched(PixelImages):
        def stream(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
            yield from super().stream(requests)
            torch.cuda.set_sync_debug_mode("default")

    assert isinstance(data.validation, PixelImages)
    watched = Watched(data.validation.pixels, data.validation.labels)
    try:
        metric = replace(task.metric, sums=sums)
        found = score(network, 16, watched, metric, batch=4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.value == pytest.approx(expected.value, abs=1e-2)
