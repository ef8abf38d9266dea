"""An ensemble of teachers -> one small student, on labelled and unlabelled logos."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import default_collate

from logo_edge.errors import RunError
from logo_edge.manifest import Manifest
from logo_edge_train.dataset import LogoDataset, pool_rows
from logo_edge_train.fetch import renders_folder
from logo_edge_train.fit import Objective, fit
from logo_edge_train.models import LogoNetwork, has_imagenet_weights, is_sized
from logo_edge_train.parallel import count_cores
from logo_edge_train.recipe import Architecture, DistillConfig
from logo_edge_train.resources import return_memory
from logo_edge_train.runs import Run, file_hash, load_network, save_member, write_json
from logo_edge_train.tracker import stem_of
from logo_edge_train.train import accuracy_on, evaluation_sets

CPU_BATCH = 16  # views that a teacher sees at a time: a batch of large ones takes a gigabyte


@dataclass(frozen=True)
class Student:
    """A distilled network and where it is kept."""

    candidate: Architecture
    network: LogoNetwork
    checkpoint: Path
    history: list[dict]


def distill(
    run: Run, manifest: Manifest, config: DistillConfig, candidate: Architecture, folder: Path, *,
    device: torch.device, report: Callable[[dict], None],
) -> Student:  # fmt: skip
    """The student, fitted or, where `folder` holds it already for the same teachers and settings, read back."""
    folder.mkdir(parents=True, exist_ok=True)
    key = _cache_key(run, config, candidate)
    checkpoint, record_path = folder / "student.safetensors", folder / "student.json"
    if record_path.exists():
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if record["key"] == key and checkpoint.exists() and file_hash(checkpoint) == record["sha256"]:
            return Student(candidate, load_network(checkpoint, candidate, len(run.classes)), checkpoint,
                           record["history"])  # fmt: skip
    teachers = [run.load_member(index) for index in range(len(run.record["members"]))]
    sizes = [run.architecture(index).size_px for index in range(len(teachers))]
    network, history = follow_teachers(
        _start_student(run, candidate, config), f"student {candidate}", stem_of("student", folder), list(zip(teachers, sizes, strict=True)), run,
        manifest, config, candidate.size_px, state=folder / "student.state", device=device, report=report,
    )  # fmt: skip
    sha256 = save_member(checkpoint, network)
    write_json(record_path, {"key": key, "student": str(candidate), "sha256": sha256, "history": history})
    (folder / "student.state").unlink()
    return Student(candidate, load_network(checkpoint, candidate, len(run.classes)), checkpoint, history)


def follow_teachers(
    network: nn.Module, name: str, stem: str, teachers: list[tuple[LogoNetwork, int]], run: Run, manifest: Manifest,
    config: DistillConfig, size_px: int, *, state: Path, device: torch.device, report: Callable[[dict], None],
) -> tuple[nn.Module, list[dict]]:  # fmt: skip
    """The network, which sees `size_px` pixels, after learning what the (network, size_px) teachers say; and its history.

    Interrupted, it goes on from `state`; reports and snapshots carry the `stem`. On CPUs half of the cores ask the
    teachers.
    """
    rows = pool_rows(
        manifest, run.manifest_path, use_unlabelled=config.use_unlabelled, max_images=config.fit.max_images
    )
    note = f"from {len(teachers)} teacher{'s'[: len(teachers) > 1]} on {len(rows)} logos"
    report({"kind": "start", "name": name, "stem": stem, "note": note})
    sizes = [size for _, size in teachers]
    lesson = Lesson([teacher.to(device) for teacher, _ in teachers], sizes, size_px, config)
    dataset = LogoDataset(
        manifest, rows, run.classes, renders_folder(), size_px=max(*sizes, size_px), augment=config.augment,
        use_votes=config.fit.use_votes, seed=config.seed,
    )  # fmt: skip
    val = evaluation_sets(manifest, run.classes, size_px, ("val",))["val"]
    if config.adversarial_radius and isinstance(network, LogoNetwork):
        network.keep_statistics()  # those of a batch hide an attack that moves all its views alike
    gpu, cores = device.type == "cuda", count_cores()
    loaders = cores if gpu else max(1, cores // 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, cores - loaders))
    learned = fit(
        network, dataset, distillation_objective(config, lesson if gpu else None), config.fit, state=state,
        seed=config.seed, device=device, evaluate=accuracy_on(val, device),
        report=lambda item: report({"name": name, **item}), collate=default_collate if gpu else lesson.collate,
        loaders=loaders, snapshots=run.folder / "snapshots" / stem if isinstance(network, LogoNetwork) else None,
    )  # fmt: skip
    torch.set_num_threads(threads)
    return_memory()
    return learned


class Lesson:
    """What the teachers say about a batch of views: mixes the views, then asks teachers about the same ones.

    Function matching: teachers and student see the very same pixels (Beyer et al. 2022, arXiv:2106.05237). With
    `teachers_per_batch`, each batch asks so many teachers, drawn anew: the loss is linear in the target, so its
    gradient is, in the mean, that of the whole ensemble at a fraction of the cost.
    """

    def __init__(self, teachers: list[LogoNetwork], sizes_px: list[int], student_px: int, config: DistillConfig):
        self.teachers, self.sizes_px, self.student_px, self.config = teachers, sizes_px, student_px, config

    def collate(self, items: list) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The lesson on a list of dataset items; runs in the processes that make batches."""
        return self.teach(*default_collate(items))

    @torch.no_grad()
    def teach(self, pixels, targets, _weights, positions) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(views (B, s, s, 3) float, softened prediction of those asked (B, K), votes (B, K)).

        The votes are 0 where there are none, and such a multiple of the shares that their mean over all B is that over
        the labelled logos.
        """
        views = pixels.float()
        random = np.random.default_rng((self.config.seed, int(positions[0])))
        if random.random() < self.config.p_mixup:  # Zhang et al. 2018, arXiv:1710.09412
            share, order = float(random.random()), torch.from_numpy(random.permutation(len(views))).to(views.device)
            views = share * views + (1 - share) * views[order]
            targets = torch.zeros_like(targets)  # two simple logos, one upon the other, look complex: no vote holds
        asked = self._draw_teachers(int(positions[0]))
        soft = sum(self._ask(index, views) for index in asked) / len(asked)
        return resize_views(views, self.student_px), soft, targets * len(targets) / targets.sum().clamp(min=1)

    def _draw_teachers(self, position: int) -> list[int]:
        count = len(self.teachers)
        random = np.random.default_rng((self.config.seed, position, count))
        return random.permutation(count)[: self.config.teachers_per_batch or count].tolist()

    def _ask(self, index: int, views: torch.Tensor) -> torch.Tensor:
        seen = resize_views(views, self.sizes_px[index])
        parts = seen.split(CPU_BATCH if seen.device.type == "cpu" else len(seen))
        logits = torch.cat([self.teachers[index](part) for part in parts]).float()
        return (logits / self.config.temperature).softmax(1)


def distillation_objective(config: DistillConfig, lesson: Lesson | None) -> Objective:
    """KL to the ensemble's mean softened prediction, and cross-entropy on the annotators' votes.

    Losses: `distillation` is T^2 KL(teachers || student) at temperature T (Hinton et al. 2015, arXiv:1503.02531),
    `votes` the cross-entropy on labelled logos. With a `lesson`, the batch is raw and the teachers are asked here.
    With `adversarial_radius` the student learns on attacked views (Goldblum et al. 2020, arXiv:1905.09747).
    """
    heat = config.temperature

    def diverge(logits, soft):
        return functional.kl_div((logits / heat).log_softmax(1), soft, reduction="batchmean")

    def objective(network, *batch):
        views, soft, votes = lesson.teach(*batch) if lesson else batch
        if config.adversarial_radius:
            views = attack_views(network, views, lambda logits: diverge(logits, soft), config.adversarial_radius)
        logits = network(views).float()  # (B, K)
        divergence = diverge(logits, soft)
        hard = -(votes * logits.log_softmax(1)).sum(1).mean()
        return {
            "distillation": (1 - config.hard_weight) * heat * heat * divergence,
            "votes": config.hard_weight * hard,
        }

    return objective


def attack_views(
    network: nn.Module, views: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor], radius: float
) -> torch.Tensor:
    """(B, S, S, 3) views of 0 to 255, moved so that the network's loss grows: noise of 2 radii, then a step of one.

    The noise is strong and nothing is clipped back to the radius: from weaker noise, a network soon learns to withstand
    the one step and no other attack. N-FGSM, de Jorge et al. 2022, arXiv:2202.01181.
    """
    noisy = (views + torch.empty_like(views).uniform_(-2 * radius, 2 * radius)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(network(noisy).float()), noisy)
    return (noisy + radius * gradient.sign()).clamp(0, 255).detach()


def resize_views(views: torch.Tensor, size_px: int) -> torch.Tensor:
    """(B, S, S, 3) float -> (B, size_px, size_px, 3), antialiased; unchanged at its own size."""
    if views.shape[1] == size_px:
        return views
    planes = views.permute(0, 3, 1, 2)
    resized = functional.interpolate(planes, (size_px, size_px), mode="bilinear", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1)


def _start_student(run: Run, candidate: Architecture, config: DistillConfig) -> LogoNetwork:
    torch.manual_seed(config.seed)
    alike = [
        i for i in range(len(run.record["members"]))
        if run.architecture(i).model == candidate.model
        and (run.architecture(i) == candidate or not is_sized(candidate.model))
    ]  # fmt: skip
    if config.start_from_teacher and alike:
        return run.load_member(min(alike, key=lambda i: abs(run.architecture(i).size_px - candidate.size_px)))
    pretrained = config.pretrained and has_imagenet_weights(candidate.model)
    return LogoNetwork(
        candidate.model, len(run.classes), size_px=candidate.size_px, dropout=config.fit.dropout, pretrained=pretrained
    )  # fmt: skip


def _cache_key(run: Run, config: DistillConfig, candidate: Architecture) -> str:
    teachers = [member["sha256"] for member in run.record["members"]]
    settings = _changed(asdict(config), asdict(DistillConfig()))  # no defaults: a setting yet to come changes no key
    settings = {name: value for name, value in settings.items() if name not in ("students", "max_size_mb")}
    parts = {"data": run.record["identity"]["data_hash"], "teachers": teachers, "config": settings,
             "student": str(candidate)}  # fmt: skip
    if not teachers:
        raise RunError(f"{run.folder} has no teachers")
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _changed(table: dict, plain: dict) -> dict:
    """What a nested table has otherwise than the plain one."""
    return {
        name: _changed(value, plain[name]) if isinstance(value, dict) else value
        for name, value in table.items() if value != plain[name]
    }  # fmt: skip
