"""An ensemble of teachers -> one small student, on labelled and unlabelled logos, mixtures of them and pictures that are none."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import isqrt
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file, save
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from logo_edge.errors import RunError, VerificationError
from logo_edge.files import replacing
from logo_edge.preprocess import InputContract, preprocess
from logo_edge_compress.distill.prune import prune_channels
from logo_edge_compress.onnx.export import export_body
from logo_edge_compress.onnx.graph import PLANES
from logo_edge_train.checkpoints import load_network, save_member
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.icons import renders_folder
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.outliers import outliers_key
from logo_edge_train.data.pool import data_inputs, pool_rows
from logo_edge_train.data.sampling import EpochOrder
from logo_edge_train.evaluate import accuracy_on, evaluation_sets
from logo_edge_train.fit import Objective, fit
from logo_edge_train.keys import FITTED_WITH, Identity, file_hash, identify, select_settings, versions
from logo_edge_train.losses import match_width
from logo_edge_train.models import Answer, LogoNetwork, epistemic_loss, has_imagenet_weights, is_sized, normalise
from logo_edge_train.parallel import count_cores
from logo_edge_train.recipe import Architecture, DistillConfig
from logo_edge_train.resources import return_memory
from logo_edge_train.review.panel import Features, panel_probabilities
from logo_edge_train.runs import Run, write_json
from logo_edge_train.tracker import stem_of
from logo_edge_train.train import outlier_rows

CHECKPOINT, RECORD = "student.safetensors", "student.json"  # in a student's folder
CPU_BATCH = 16  # views that a teacher sees at a time: a batch of large ones takes a gigabyte
GRID = 4  # a side, of the attention that is matched
TEACHER_TOLERANCE = 1e-3  # of the largest logit, from FP32 sums in another order
DISTILLED_ELSEWHERE = ("distill.students", "distill.max_size_mb")  # what is of all students, not of one
ANGLES = 2.0  # the weight of angles beside that of distances, as Park et al. have it


@dataclass(frozen=True)
class Student:
    """A distilled network and where it is kept."""

    candidate: Architecture
    network: LogoNetwork
    checkpoint: Path
    history: list[dict]


def distill(
    run: Run,
    manifest: Manifest,
    config: DistillConfig,
    candidate: Architecture,
    folder: Path,
    *,
    device: torch.device,
    report: Callable[[dict], None],
) -> Student:
    """The student, fitted or, where `folder` holds it already for the same teachers, data and settings, read back.

    Interrupted, it goes on with the same ones; with others it begins again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = student_identity(run, manifest, config, candidate)
    checkpoint, record_path = folder / CHECKPOINT, folder / RECORD
    if record_path.exists():
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if not identity.changes(record["identity"], finished=True):
            with suppress(RunError):  # of a checkpoint that is missing or changed
                return load_student(folder, len(run.classes))
    teachers = [
        (run.load_member(index), run.architecture(index).contract) for index in range(len(run.record["members"]))
    ]
    check_teachers(run, config)
    network = _start_student(run, candidate, config)
    if config.epistemic != "off":
        network.learn_epistemic(config.epistemic)

    def learn(network: LogoNetwork, config: DistillConfig, kind: str) -> tuple[LogoNetwork, list[dict]]:
        return follow_teachers(
            network,
            f"{kind} {candidate}",
            stem_of(kind, folder),
            teachers,
            run,
            manifest,
            config,
            candidate.contract,
            state=folder / f"{kind}-{identity.key[:12]}.state",
            device=device,
            key=identity.key,
            report=report,
        )

    network, history = learn(network, config, "student")
    if config.prune.share:
        network = prune_channels(network, config.prune, manifest, run.classes, candidate.contract)
        network, later = learn(network, replace(config, fit=config.prune.fit), "pruned")
        history = history + later
    sha256 = save_member(checkpoint, network)
    record = {"identity": asdict(identity), "student": str(candidate), "sha256": sha256, "history": history}
    write_json(record_path, record)
    for state in folder.glob("*.state"):
        state.unlink()
    for lessons in folder.glob("*.lessons"):  # those of other settings that were interrupted, too
        shutil.rmtree(lessons)
    return load_student(folder, len(run.classes))


def load_student(folder: Path, classes: int) -> Student:
    """The distilled student in `folder`, of so many classes.

    Raises RunError where there is none, or its checkpoint is not the one that its record lists.
    """
    checkpoint, record_path = folder / CHECKPOINT, folder / RECORD
    if not record_path.exists():
        raise RunError(f"{folder} has no {RECORD}; expected a student, made by `logo-edge compress`")
    record = json.loads(record_path.read_text(encoding="utf-8"))
    if not checkpoint.exists() or file_hash(checkpoint) != record["sha256"]:
        raise RunError(
            f"{checkpoint} is missing or not the file that {RECORD} lists; put it back, or run `logo-edge compress` again"
        )
    candidate = Architecture.parse(record["student"])
    return Student(candidate, load_network(checkpoint, candidate, classes), checkpoint, record["history"])


def student_identity(run: Run, manifest: Manifest, config: DistillConfig, candidate: Architecture) -> Identity:
    """What a student depends on: the teachers, what they are asked about, and how it learns from them."""
    inputs = data_inputs(manifest, use_unlabelled=config.use_unlabelled)
    inputs |= {f"teacher {index + 1}": member["sha256"] for index, member in enumerate(run.record["members"])}
    if run.recipe.train.outlier_share:
        inputs["outliers"] = outliers_key()
    sections = ("distill", *(["review"] if config.panel_share else []))
    settings = select_settings(replace(run.recipe, distill=config), *sections, without=DISTILLED_ELSEWHERE)
    return identify(inputs, settings | {"student": str(candidate)}, versions((*FITTED_WITH, "onnxruntime")))


def check_teachers(run: Run, config: DistillConfig) -> None:
    """Raises RunError where the student is to learn what the run's teachers disagree on, and there is one."""
    if config.epistemic != "off" and len(run.record["members"]) < 2:
        raise RunError(
            f"distill.epistemic is {config.epistemic!r}, and {run.folder} has one teacher, which disagrees with nobody; "
            "expected two or more, or epistemic = 'off'"
        )


def follow_teachers(
    network: nn.Module,
    name: str,
    stem: str,
    teachers: list[tuple[LogoNetwork, InputContract]],
    run: Run,
    manifest: Manifest,
    config: DistillConfig,
    contract: InputContract,
    *,
    state: Path,
    device: torch.device,
    key: str,
    report: Callable[[dict], None],
) -> tuple[nn.Module, list[dict]]:
    """The network, which reads what `contract` says, after learning what the (network, contract) teachers say; its history.

    Interrupted, it goes on from `state`, where that is of the same `key`; reports and snapshots carry the `stem`. On CPUs
    half of the cores ask the teachers.
    """
    rows = pool_rows(manifest, use_unlabelled=config.use_unlabelled, max_images=config.fit.max_images)
    outliers = outlier_rows(run.recipe.train, len(rows))
    gpu, cores = device.type == "cuda", count_cores()
    asked, contracts = [teacher.to(device) for teacher, _ in teachers], [own for _, own in teachers]
    notes = [f"from {len(teachers)} teacher{'s'[: len(teachers) > 1]} on {len(rows)} logos"]
    notes += [f"{len(outliers)} pictures that are none"] if outliers else []
    if not gpu and not matches(config):
        asked = [_open_teacher(teacher, own.size_px, notes) for teacher, own in teachers]
    report({"kind": "start", "name": name, "stem": stem, "note": "; ".join(notes)})
    panel = ask_panel(run, manifest, rows, outliers, device) if config.panel_share else None
    lesson = Lesson(asked, contracts, contract, config, ask=not gpu)
    dataset = PictureDataset(
        manifest,
        rows + outliers,
        run.classes,
        renders_folder(),
        augment=config.augment,
        contract=InputContract(max(own.least_px for own in (*contracts, contract))),
        use_votes=config.fit.use_votes,
        seed=config.seed,
        panel=panel,
        panel_share=config.panel_share,
    )
    val = evaluation_sets(manifest, run.classes, contract, ("val",))["val"]
    if config.adversarial_radius and isinstance(network, LogoNetwork):
        network.keep_statistics()  # those of a batch hide an attack that moves all its views alike
    if config.feature_weight:
        torch.manual_seed(config.seed)
        network.match = nn.Linear(network.count_features(), sum(teacher.count_features() for teacher, _ in teachers))
    loaders = cores if gpu else max(1, cores // 2)
    order = kept = None
    if 0 < config.views < config.fit.epochs:
        order = RepeatedOrder(EpochOrder(len(dataset), config.seed), config.views, config.fit.batch_size)
        kept = None if gpu else KeptLessons(dataset, lesson, state.with_suffix(".lessons"))
    threads = torch.get_num_threads()
    torch.set_num_threads(cores if kept else max(1, cores - loaders))  # the teachers rest, once lessons repeat
    learned = fit(
        network,
        kept or dataset,
        distillation_objective(config, lesson if gpu else None),
        config.fit,
        state=state,
        seed=config.seed,
        device=device,
        evaluate=accuracy_on(val, device),
        report=lambda item: report({"name": name, **item}),
        collate=(kept or lesson).collate,
        loaders=loaders,
        snapshots=run.folder / "snapshots" / stem if isinstance(network, LogoNetwork) else None,
        order=order,
        key=key,
    )
    torch.set_num_threads(threads)
    return_memory()
    if config.feature_weight:
        del learned[0].match  # the student is done with it
    return learned


def ask_panel(
    run: Run, manifest: Manifest, rows: list[LogoRow], outliers: list[LogoRow], device: torch.device
) -> np.ndarray:
    """(N + M, K): what the panel of `review` says of N logos, none of whose groups it has learned from; 0 for M outliers.

    Its features and fits are kept in the run's folder, and read from there.
    """
    features = Features(manifest, run.recipe.review, run.folder / "panel", device, lambda *report: None)
    probabilities = panel_probabilities(features, rows)
    return np.concatenate([probabilities, np.zeros((len(outliers), probabilities.shape[1]))])


class OnnxTeacher:
    """A teacher's logits and evidence by ONNX Runtime on one thread: on CPUs in less than half of PyTorch's time.

    Each process opens it for itself when it first asks. Raises VerificationError where it does not say what the network says.
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
            wanted = network(noise)
        apart = (self.answer(noise).logits - wanted).abs().max().item()
        if not apart <= TEACHER_TOLERANCE * max(1.0, wanted.abs().max().item()):
            raise VerificationError(
                f"the teacher {network.name}@{size_px} as ONNX says logits that lie {apart:.3g} from its own; expected at "
                f"most {TEACHER_TOLERANCE:g} of the largest"
            )

    def __getstate__(self) -> dict:
        return {**self.__dict__, "session": None, "process": 0}

    def answer(self, pixels: torch.Tensor) -> Answer:
        """Its logits and, of a network with an epistemic head, evidence, of (B, S, S, C) float pixels of 0 to 255."""
        if self.process != os.getpid():
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self.session = onnxruntime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])
            self.process = os.getpid()
        planes = normalise(pixels).contiguous().numpy()  # (B, C, S, S)
        logits, *evidence = map(torch.from_numpy, self.session.run(None, {PLANES: planes}))
        return Answer(logits, None, None, evidence[0] if evidence else None)


def _open_teacher(network: LogoNetwork, size_px: int, notes: list[str]) -> OnnxTeacher | LogoNetwork:
    """The teacher by ONNX Runtime or, where it is not the same there, as it is, with a note of that."""
    try:
        return OnnxTeacher(network, size_px)
    except (VerificationError, torch.onnx.errors.OnnxExporterError) as error:
        notes.append(f"{error}; asked by PyTorch, which takes longer")
        return network


class PictureDataset(LogoDataset):
    """Like LogoDataset, with the pictures that views are made of in place of the views: (H, W, 3) uint8 arrays."""

    def __getitem__(self, position: int) -> tuple[np.ndarray, torch.Tensor, int]:
        index = position % len(self.rows)
        return self.picture(position), torch.from_numpy(self.targets[index]), position


class Lesson:
    """What the teachers say about a batch of pictures: each network sees them as its own contract has it.

    Function matching: teachers and student see the same picture (Beyer et al. 2022, arXiv:2106.05237). With
    `teachers_per_batch`, each batch asks so many teachers, drawn anew: the losses are linear in what they say (but for
    that of a dispersion), so their gradient is, in the mean, that of the whole ensemble at a fraction of the cost.
    """

    def __init__(
        self,
        teachers: list[LogoNetwork] | list[OnnxTeacher],
        contracts: list[InputContract],
        student: InputContract,
        config: DistillConfig,
        *,
        ask: bool = True,
    ):
        self.teachers, self.contracts, self.student, self.config, self.ask = teachers, contracts, student, config, ask

    def collate(self, items: list[tuple[np.ndarray, torch.Tensor, int]]) -> tuple[torch.Tensor, ...]:
        """The lesson on a list of items of a PictureDataset; runs in the processes that make batches.

        (views (B, S, S, C) float, votes, what `answer` gives); without `ask` (views, votes, position, what each teacher
        drawn sees), for `answer` on the GPU. `votes` (B, K), or (B, K + 1) with pictures that are no logos, are 0 where
        there are none, and such a multiple of the shares that their mean over all B is that over the labelled pictures.
        """
        pictures, targets, positions = zip(*items, strict=True)
        targets, position = torch.stack(targets), torch.full((len(pictures),), positions[0])
        random = np.random.default_rng((self.config.seed, positions[0]))
        share, order = 1.0, np.arange(len(pictures))
        if random.random() < self.config.p_mixup:
            share, order = float(random.random()), random.permutation(len(pictures))
            targets = torch.zeros_like(targets)  # two simple logos, one upon the other, look complex: no vote holds
        asked = [self.contracts[index] for index in self.draw_teachers(positions[0])]
        seen = {
            contract: mix_views(see_pictures(pictures, contract), share, order) for contract in {self.student, *asked}
        }
        votes = targets * len(targets) / targets.sum().clamp(min=1)
        views = [seen[contract] for contract in asked]
        if not self.ask:
            return seen[self.student], votes, position, *views
        return seen[self.student], votes, *self.answer(position, *views)

    def draw_teachers(self, position: int) -> list[int]:
        """The indices of the teachers that are asked about the batch that begins with the position."""
        count = len(self.teachers)
        random = np.random.default_rng((self.config.seed, position, count))
        return sorted(random.permutation(count)[: self.config.teachers_per_batch or count].tolist())

    @torch.no_grad()
    def answer(self, position: torch.Tensor, *views: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The logits (B, M, K) of the M teachers drawn, and what `collect` adds; `views` are what each of them sees.

        `position` (B,) is that of the batch's first item, throughout.
        """
        drawn = self.draw_teachers(int(position[0]))
        said = [self._ask(index, seen) for index, seen in zip(drawn, views, strict=True)]
        return torch.stack([answer.logits for answer in said], 1), *collect(said, self.config)

    def _ask(self, index: int, views: torch.Tensor) -> Answer:
        """What a teacher says of the views, in float32; only what the losses need is kept."""
        teacher = self.teachers[index]
        said = [teacher.answer(part) for part in views.split(CPU_BATCH if views.device.type == "cpu" else len(views))]
        matched = matches(self.config)
        return Answer(
            torch.cat([answer.logits for answer in said]).float(),
            torch.cat([answer.features for answer in said]).float() if matched else None,
            torch.cat([attention_map(answer.maps, teacher) for answer in said]) if matched else None,
            torch.cat([answer.evidence for answer in said]).float() if said[0].evidence is not None else None,
        )


def see_pictures(pictures: Sequence[np.ndarray], contract: InputContract) -> torch.Tensor:
    """(B, S, S, C) float32 of 0 to 255: the (H, W, 3) uint8 pictures as the contract has it."""
    return torch.from_numpy(np.stack([preprocess(picture, contract) for picture in pictures])).float()


def mix_views(views: torch.Tensor, share: float, order: np.ndarray) -> torch.Tensor:
    """The (B, S, S, C) views, each with another of the batch shining through. Zhang et al. 2018, arXiv:1710.09412."""
    return views if share == 1 else share * views + (1 - share) * views[torch.from_numpy(order)]


class RepeatedOrder:
    """The batches of the first `views` epochs, over and over; repeated, they come in an order of their own.

    As in a fit, a batch holds all logos where there are fewer than `batch_size`.
    """

    def __init__(self, order: EpochOrder, views: int, batch_size: int):
        self.order, self.views, self.batch_size = order, views, min(batch_size, order.count)

    def __call__(self, epoch: int) -> np.ndarray:
        positions = self.order(epoch % self.views)
        if epoch < self.views:
            return positions
        batches = positions[: len(positions) // self.batch_size * self.batch_size].reshape(-1, self.batch_size)
        return np.random.default_rng((self.order.seed, epoch)).permutation(batches).ravel()


class KeptLessons(Dataset):
    """Lessons of whole batches, given once and then read from files in `folder`, views rounded to uint8.

    A long schedule at a part of its cost: teachers take most of an epoch's time on CPUs.
    """

    def __init__(self, dataset: LogoDataset, lesson: Lesson, folder: Path):
        self.dataset, self.lesson, self.folder = dataset, lesson, folder
        folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> int:
        return position

    def collate(self, positions: list[int]) -> tuple[torch.Tensor, ...]:
        """The lesson on the logos at those positions, which no other batch begins with."""
        path = self.folder / f"{positions[0]}.safetensors"
        if not path.exists():
            views, *said = self.lesson.collate([self.dataset[position] for position in positions])
            kept = {
                "views": views.round().clamp(0, 255).byte(),
                **{str(index): item for index, item in enumerate(said)},
            }
            with replacing(path, flush=False) as part:
                part.write_bytes(save({name: item.contiguous() for name, item in kept.items()}))
        kept = load_file(path)
        return kept.pop("views").float(), *(kept[str(index)] for index in range(len(kept)))


def matches(config: DistillConfig) -> bool:
    """Whether more than predictions is matched."""
    return bool(config.feature_weight or config.attention_weight or config.relation_weight)


def collect(said: list[Answer], config: DistillConfig) -> tuple[torch.Tensor, ...]:
    """The further targets of a lesson: features (B, F) and attention (B, GRID * GRID), or a lone teacher's evidence (B, 1).

    Features are those of all teachers asked, each teacher's of length 1, side by side; attention is their mean.
    """
    if matches(config):
        features = torch.cat([functional.normalize(answer.features, dim=1) for answer in said], 1)
        return features, torch.stack([answer.maps for answer in said]).mean(0)
    return (said[0].evidence,) if config.epistemic != "off" and said[0].evidence is not None else ()


def distillation_objective(config: DistillConfig, lesson: Lesson | None) -> Objective:
    """The losses of a student, combined by the recipe. With a `lesson`, the teachers are asked here.

    `distillation` is T^2 KL(teachers || student) at temperature T, to the ensemble's mean softened prediction (Hinton et
    al. 2015, arXiv:1503.02531); `votes` the cross-entropy on the annotators' votes of labelled logos; `features` one
    less the cosine to the teachers' pooled features, from a linear map of the student's (Romero et al. 2015,
    arXiv:1412.6550); `attention` the distance of the last maps' energies (Zagoruyko and Komodakis 2017,
    arXiv:1612.03928); `relations` that of the distances and angles between the logos of a batch, or of a part of it
    (Park et al. 2019, arXiv:1904.05068); `epistemic` that of models/epistemic.py, or the squared difference from a lone
    teacher's own evidence. With `adversarial_radius` the student learns on attacked views (Goldblum et al. 2020,
    arXiv:1905.09747).
    """
    heat = config.temperature

    def objective(network, views, votes, *batch):
        said, *further = lesson.answer(*batch) if lesson else batch
        soft = (match_width(said, votes) / heat).softmax(2).mean(1)  # (B, K), or (B, K + 1) with pictures that are none

        def diverge(logits):
            return functional.kl_div((match_width(logits, votes) / heat).log_softmax(1), soft, reduction="batchmean")

        if config.adversarial_radius:
            views = attack_views(network, views, diverge, config.adversarial_radius)
        whole = matches(config) or config.epistemic != "off"
        answer = network.answer(views) if whole else Answer(network(views), None, None, None)
        logits = answer.logits.float()  # (B, K)
        losses = {
            "distillation": (1 - config.hard_weight) * heat * heat * diverge(logits),
            "votes": config.hard_weight * -(votes * match_width(logits, votes).log_softmax(1)).sum(1).mean(),
        }
        if matches(config):
            losses |= _match(network, answer, *further, config)
        if config.epistemic != "off":
            evidence = answer.evidence.float()
            alone = further and not matches(config)
            loss = (
                functional.mse_loss(evidence, further[0])
                if alone
                else epistemic_loss(config.epistemic, logits, evidence, said)
            )
            losses["epistemic"] = config.epistemic_weight * loss
        return losses

    return objective


def _match(
    network: LogoNetwork, answer: Answer, features: torch.Tensor, attention: torch.Tensor, config: DistillConfig
) -> dict[str, torch.Tensor]:
    losses, own = {}, answer.features.float()
    if config.feature_weight:
        apart = 1 - functional.cosine_similarity(network.match(own), features)
        losses["features"] = config.feature_weight * apart.mean()
    if config.attention_weight:
        apart = (attention_map(answer.maps, network) - attention).square().sum(1)
        losses["attention"] = config.attention_weight * apart.mean()
    if config.relation_weight:
        losses["relations"] = config.relation_weight * relation_loss(own, features)
    return losses


def attention_map(maps: torch.Tensor, network: LogoNetwork) -> torch.Tensor:
    """(B, GRID * GRID) of length 1: where maps (B, C, H, W), or tokens (B, N, C), are strong, on one grid for all sizes."""
    maps = maps.float()
    if maps.ndim == 3:
        patches = maps[:, network.backbone.num_prefix_tokens :].transpose(1, 2)
        maps = patches.unflatten(2, (isqrt(patches.shape[2]), -1))
    strength = functional.adaptive_avg_pool2d(maps.square().mean(1, keepdim=True), GRID)
    return functional.normalize(strength.flatten(1), dim=1)


def relation_loss(own: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How far the distances and angles between a batch's features (B, F) are from those of others (B, G); 0 for one logo."""
    distances, angles = (functional.smooth_l1_loss(measure(own), measure(wanted)) for measure in (_distances, _angles))
    return distances + ANGLES * angles


def _distances(features: torch.Tensor) -> torch.Tensor:
    """(B, B) over their mean."""
    squares = features.square().sum(1)
    distances = (squares[:, None] + squares - 2 * features @ features.T).clamp(min=1e-12).sqrt()
    distances = distances * (1 - torch.eye(len(features), device=features.device))
    return distances / distances.sum().clamp(min=1e-6) * max(1, len(features) * (len(features) - 1))


def _angles(features: torch.Tensor) -> torch.Tensor:
    """(B, B, B) cosines of the angle at the first logo between the second and the third."""
    directions = functional.normalize(features[None] - features[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


def attack_views(
    network: nn.Module, views: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor], radius: float
) -> torch.Tensor:
    """(B, S, S, C) views of 0 to 255, moved so that the network's loss grows: noise of 2 radii, then a step of one.

    The noise is strong and nothing is clipped back to the radius: from weaker noise, a network soon learns to withstand
    the one step and no other attack. N-FGSM, de Jorge et al. 2022, arXiv:2202.01181.
    """
    noisy = (views + torch.empty_like(views).uniform_(-2 * radius, 2 * radius)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(network(noisy).float()), noisy)
    return (noisy + radius * gradient.sign()).clamp(0, 255).detach()


def _start_student(run: Run, candidate: Architecture, config: DistillConfig) -> LogoNetwork:
    torch.manual_seed(config.seed)
    alike = [
        i
        for i in range(len(run.record["members"]))
        if run.architecture(i).model == candidate.model
        and (run.architecture(i) == candidate or not is_sized(candidate.model))
    ]
    if config.start_from_teacher and alike:
        closest = min(alike, key=lambda i: abs(run.architecture(i).size_px - candidate.size_px))
        return run.load_member(closest, dropout=config.fit.dropout)
    pretrained = config.pretrained and has_imagenet_weights(candidate.model)
    return LogoNetwork(
        candidate.model, len(run.classes), size_px=candidate.size_px, dropout=config.fit.dropout, pretrained=pretrained
    )
