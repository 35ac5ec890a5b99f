"""What training minimises: cross entropy with label smoothing, and distillation from a teacher."""

import torch.nn.functional as F
from torch import Tensor


def supervised(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """(N, classes), (N,) -> scalar; `smoothing` of the target's mass is spread over all classes."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def distilled(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross entropy to the teacher's soft labels (paper, section 3.3, "knowledge distillation"):
    (N, classes), (N, classes) -> scalar."""
    return F.cross_entropy(logits, teacher_logits.softmax(dim=1))
