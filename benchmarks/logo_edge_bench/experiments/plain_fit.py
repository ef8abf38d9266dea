"""A fine-tune as a careful user of timm writes it, and its ONNX export: what peers are fitted by.

AdamW, cosine, crops, flips and colour jitter, label smoothing; the best epoch on val.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torchvision.transforms import v2

from logo_edge.files import replacing

BATCH, RATE, DECAY, SMOOTHING = 64, 1e-3, 0.05, 0.1
MEAN, STD = 127.0, 128.0  # of the pixels, for timm's Lite0


def fit(
    network: nn.Module,
    images: Sequence[torch.Tensor],
    targets: torch.Tensor,
    size_px: int,
    epochs: int,
    folder: Path,
    evaluate: Callable[[nn.Module], float],
) -> nn.Module:
    """The network of the epoch with the highest `evaluate`, kept as best.pt; a fit goes on from state.pt in `folder`.

    images: (3, H, W) uint8 each; targets: (N,) classes, or (N, K) several labels each, with a sigmoid for each label.
    """
    several = targets.ndim == 2
    decayed = [weight for weight in network.parameters() if weight.ndim > 1]
    plain = [weight for weight in network.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    change = v2.Compose(
        [
            v2.RandomResizedCrop(size_px, scale=(0.6, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.2, 0.2, 0.2, 0.05),
            v2.ToDtype(torch.float32),
            v2.Normalize([MEAN] * 3, [STD] * 3),
        ]
    )
    name, state, best, start = folder.name, folder / "state.pt", -1.0, 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        for part, fitted in parts.items():
            fitted.load_state_dict(saved[part])
        best, start = saved["best"], saved["epoch"]
        print(f"{name}: goes on after epoch {start}")
    for epoch in range(start, epochs):
        torch.manual_seed(epoch)
        network.train()
        for chosen in torch.randperm(len(targets)).split(BATCH):
            if len(chosen) < 2:
                continue  # batch-norm needs two
            logits = network(torch.stack([change(images[index]) for index in chosen.tolist()]))
            loss = (
                nn.functional.binary_cross_entropy_with_logits(logits, targets[chosen].float()) * targets.shape[1]
                if several
                else nn.functional.cross_entropy(logits, targets[chosen], label_smoothing=SMOOTHING)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        reached = evaluate(network)
        print(f"{name}: epoch {epoch + 1} of {epochs}, loss {loss.item():.3f}, val {reached:.1%}", flush=True)
        if reached > best:
            best = reached
            save({"network": network.state_dict()}, folder / "best.pt")
        content = {part: fitted.state_dict() for part, fitted in parts.items()}
        save(content | {"best": best, "epoch": epoch + 1}, state)
    network.load_state_dict(torch.load(folder / "best.pt", weights_only=True)["network"])
    return network.eval()


def export(network: nn.Module, size_px: int, path: Path) -> None:
    """The network as ONNX at `path`, planes (batch, 3, S, S) -> logits, by PyTorch's exporter."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    raw = path.with_name("raw.onnx")
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, size_px, size_px),),
        dynamo=True,
        input_names=["planes"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        verbose=False,
    )
    program.save(str(raw), include_initializers=True, external_data=False)
    quant_pre_process(str(raw), str(path), skip_symbolic_shape=True)
    raw.unlink()


def save(content: dict, path: Path) -> None:
    with replacing(path) as part:
        torch.save(content, part)
