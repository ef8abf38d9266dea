"""Batches with soft targets: the views of a student, and the outputs of its teachers for the same pictures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file, save
from torch.utils.data import Dataset

from logo_edge.errors import VerificationError
from logo_edge.files import replacing
from logo_edge.preprocess import InputContract, preprocess
from logo_edge_compress.distill.losses import attention_map, further_targets, matches
from logo_edge_compress.onnx.export import export_body
from logo_edge_compress.onnx.graph import PLANES
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.sampling import EpochOrder
from logo_edge_train.models import Answer, LogoNetwork, normalise
from logo_edge_train.recipe import DistillConfig

CPU_BATCH = 16  # views per forward pass of a teacher: a batch of large ones takes a gigabyte
TEACHER_TOLERANCE = 1e-3  # of the largest logit, from FP32 sums in another order


class OnnxTeacher:
    """A teacher in ONNX Runtime on one thread: on CPUs in less than half of PyTorch's time.

    Each process opens its own session at its first call. Raises VerificationError if its logits differ from the
    network's.
    """

    def __init__(self, network: LogoNetwork, size_px: int):
        with tempfile.TemporaryDirectory() as folder:
            body = Path(folder) / "body.onnx"
            export_body(network, size_px, body)
            self.model = body.read_bytes()
        self.process, self.session = 0, None
        shape = (2, size_px, size_px, network.channels)
        noise = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32))
        with torch.no_grad():
            logits = network(noise)
        difference = (self.answer(noise).logits - logits).abs().max().item()
        if not difference <= TEACHER_TOLERANCE * max(1.0, logits.abs().max().item()):
            raise VerificationError(
                f"the logits of teacher {network.name}@{size_px} as ONNX differ by {difference:.3g} from PyTorch's; "
                f"expected at most {TEACHER_TOLERANCE:g} of the largest"
            )

    def __getstate__(self) -> dict:
        return {**self.__dict__, "session": None, "process": 0}

    def answer(self, pixels: torch.Tensor) -> Answer:
        """The logits and, with an epistemic head, the evidence for (B, S, S, C) float pixels of 0 to 255."""
        if self.process != os.getpid():
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self.session = onnxruntime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])
            self.process = os.getpid()
        planes = normalise(pixels).contiguous().numpy()  # (B, C, S, S)
        logits, *evidence = map(torch.from_numpy, self.session.run(None, {PLANES: planes}))
        return Answer(logits, None, None, evidence[0] if evidence else None)


def open_teacher(network: LogoNetwork, size_px: int, notes: list[str]) -> OnnxTeacher | LogoNetwork:
    """The teacher in ONNX Runtime; if it differs there, the network itself, with a note in `notes`."""
    try:
        return OnnxTeacher(network, size_px)
    except (VerificationError, torch.onnx.errors.OnnxExporterError) as error:
        notes.append(f"{error}; run in PyTorch, which takes longer")
        return network


class PictureDataset(LogoDataset):
    """Like LogoDataset, but returns the pictures that views are made from: (H, W, 3) uint8 arrays."""

    def __getitem__(self, position: int) -> tuple[np.ndarray, torch.Tensor, int]:
        index = position % len(self.rows)
        return self.picture(position), torch.from_numpy(self.targets[index]), position


class SoftTargets:
    """Batches with the teachers' outputs for the same pictures; each network reads them by its own input contract.

    Function matching: teachers and student see the same picture (Beyer et al. 2022, arXiv:2106.05237). With
    `teachers_per_batch`, that many teachers are drawn for each batch. The losses are linear in their probabilities
    (except for a dispersion), so the expected gradient is that of the whole ensemble, at a fraction of the cost.
    """

    def __init__(
        self,
        teachers: list[LogoNetwork] | list[OnnxTeacher],
        contracts: list[InputContract],
        student: InputContract,
        config: DistillConfig,
        *,
        ask: bool = True,
        multi_label: bool = False,
    ):
        self.teachers, self.contracts, self.student, self.config, self.ask = teachers, contracts, student, config, ask
        self.multi_label = multi_label

    def collate(self, items: list[tuple[np.ndarray, torch.Tensor, int]]) -> tuple[torch.Tensor, ...]:
        """A batch of items of a PictureDataset; runs in the processes of the data loader.

        (views (B, S, S, C) float, votes, result of `answer`). Without `ask`: (views, votes, position, views of each
        drawn teacher), for `answer` on the GPU. `votes` (B, K), or (B, K + 1) with outliers, are 0 for unlabelled
        pictures, and scaled so that their mean over all B is the mean over the labelled pictures. Multi-label they are
        (B, K + 1): 1 for each label, else 0, and last the picture's weight, which is 0 if its labels are unknown.
        """
        pictures, targets, positions = zip(*items, strict=True)
        targets, position = torch.stack(targets), torch.full((len(pictures),), positions[0])
        random = np.random.default_rng((self.config.seed, positions[0]))
        share, order = 1.0, np.arange(len(pictures))
        if random.random() < self.config.p_mixup:
            share, order = float(random.random()), random.permutation(len(pictures))
            # two simple logos, overlaid, look complex: no vote is valid
            targets = torch.full_like(targets, float("nan") if self.multi_label else 0.0)
        drawn = [self.contracts[index] for index in self.draw_teachers(positions[0])]
        views = {
            contract: mix_views(preprocess_pictures(pictures, contract), share, order)
            for contract in {self.student, *drawn}
        }
        if self.multi_label:
            known = 1 - targets.isnan().any(1).float()  # (B,)
            weights = known * len(targets) / known.sum().clamp(min=1)
            votes = torch.cat([targets.nan_to_num(), weights[:, None]], 1)
        else:
            votes = targets * len(targets) / targets.sum().clamp(min=1)
        teacher_views = [views[contract] for contract in drawn]
        if not self.ask:
            return views[self.student], votes, position, *teacher_views
        return views[self.student], votes, *self.answer(position, *teacher_views)

    def draw_teachers(self, position: int) -> list[int]:
        """The indices of the teachers for the batch whose first item has this position."""
        count = len(self.teachers)
        random = np.random.default_rng((self.config.seed, position, count))
        return sorted(random.permutation(count)[: self.config.teachers_per_batch or count].tolist())

    @torch.no_grad()
    def answer(self, position: torch.Tensor, *views: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The logits (B, M, K) of the M drawn teachers, and their `further_targets`; `views`: those of each teacher.

        Every element of `position` (B,) is the position of the batch's first item.
        """
        drawn = self.draw_teachers(int(position[0]))
        answers = [self._ask(index, part) for index, part in zip(drawn, views, strict=True)]
        return torch.stack([answer.logits for answer in answers], 1), *further_targets(answers, self.config)

    def _ask(self, index: int, views: torch.Tensor) -> Answer:
        """A teacher's outputs that the losses need, in float32."""
        teacher, batch_size = self.teachers[index], CPU_BATCH if views.device.type == "cpu" else len(views)
        answers = [teacher.answer(part) for part in views.split(batch_size)]
        matched = matches(self.config)
        return Answer(
            torch.cat([answer.logits for answer in answers]).float(),
            torch.cat([answer.features for answer in answers]).float() if matched else None,
            torch.cat([attention_map(answer.maps, teacher) for answer in answers]) if matched else None,
            torch.cat([answer.evidence for answer in answers]).float() if answers[0].evidence is not None else None,
        )


def preprocess_pictures(pictures: Sequence[np.ndarray], contract: InputContract) -> torch.Tensor:
    """(B, S, S, C) float32 of 0 to 255: the (H, W, 3) uint8 pictures, preprocessed by the contract."""
    return torch.from_numpy(np.stack([preprocess(picture, contract) for picture in pictures])).float()


def mix_views(views: torch.Tensor, share: float, order: np.ndarray) -> torch.Tensor:
    """The (B, S, S, C) views, each blended with another of the batch: mixup, Zhang et al. 2018, arXiv:1710.09412."""
    return views if share == 1 else share * views + (1 - share) * views[torch.from_numpy(order)]


class RepeatedOrder:
    """Repeats the batches of the first `views` epochs, shuffled in each later epoch.

    As in `fit`, a batch holds all images where there are fewer than `batch_size`.
    """

    def __init__(self, order: EpochOrder, views: int, batch_size: int):
        self.order, self.views, self.batch_size = order, views, min(batch_size, order.count)

    def __call__(self, epoch: int) -> np.ndarray:
        positions = self.order(epoch % self.views)
        if epoch < self.views:
            return positions
        batches = positions[: len(positions) // self.batch_size * self.batch_size].reshape(-1, self.batch_size)
        return np.random.default_rng((self.order.seed, epoch)).permutation(batches).ravel()


class StoredBatches(Dataset):
    """Whole batches with soft targets, computed once and then read from files in `folder`; views are rounded to uint8.

    It makes long schedules cheaper: on CPUs, teachers take most of an epoch's time.
    """

    def __init__(self, dataset: LogoDataset, soft_targets: SoftTargets, folder: Path):
        self.dataset, self.soft_targets, self.folder = dataset, soft_targets, folder
        folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> int:
        return position

    def collate(self, positions: list[int]) -> tuple[torch.Tensor, ...]:
        """The batch of the images at these positions; no other batch has the same first position."""
        path = self.folder / f"{positions[0]}.safetensors"
        if not path.exists():
            views, *further = self.soft_targets.collate([self.dataset[position] for position in positions])
            tensors = {str(index): tensor for index, tensor in enumerate(further)}
            tensors["views"] = views.round().clamp(0, 255).byte()
            with replacing(path, flush=False) as part:
                part.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
        tensors = load_file(path)
        return tensors.pop("views").float(), *(tensors[str(index)] for index in range(len(tensors)))
