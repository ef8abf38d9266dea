"""The further targets of a student, its teachers, and its epistemic output from checkpoint to INT8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from logo_edge.bundle.record import EPISTEMIC
from logo_edge.errors import RecipeError, VerificationError
from logo_edge.preprocess import InputContract
from logo_edge_compress.distill import distill as distill_module
from logo_edge_compress.distill import soft_targets as soft_target_module
from logo_edge_compress.distill.distill import start_student
from logo_edge_compress.distill.losses import attention_map, distillation_objective, relation_loss
from logo_edge_compress.distill.soft_targets import (
    OnnxTeacher,
    RepeatedOrder,
    SoftTargets,
    StoredBatches,
    preprocess_pictures,
)
from logo_edge_compress.onnx.export import export_body, export_onnx
from logo_edge_compress.onnx.graph import save_model, to_float16
from logo_edge_compress.quantize.qat import QuantizedNetwork, unknown_operators
from logo_edge_compress.quantize.static import quantize_body
from logo_edge_compress.verify import has_epistemic, run_onnx
from logo_edge_train.architecture import Architecture
from logo_edge_train.checkpoints import load_network, save_member
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.sampling import EpochOrder
from logo_edge_train.fit_config import DistillFit
from logo_edge_train.models import LogoNetwork, epistemic_loss, epistemic_nats, mutual_information
from logo_edge_train.models.epistemic import KINDS
from logo_edge_train.recipe import DistillConfig
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.runs import Run
from logo_edge_train.uncertainty import decompose

MODEL, SIZE, CLASSES = "test_resnet", 32, 4
CONTRACT = InputContract(SIZE)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(params=KINDS)
def student(request, pixels) -> LogoNetwork:
    """A network whose epistemic head of that kind gives a different value for every picture."""
    torch.manual_seed(0)
    network = LogoNetwork(MODEL, CLASSES).eval()
    network.learn_epistemic(request.param)
    head = network.epistemic.get_submodule(request.param)
    torch.nn.init.normal_(head.weight)
    with torch.no_grad():
        answer = network.answer(torch.from_numpy(pixels))
        head.weight *= 2 / answer.evidence.std()
        head.bias += 1 - network.answer(torch.from_numpy(pixels)).evidence.mean()
        network.backbone.get_classifier().weight *= 2 / answer.logits.std()
    return network


def nats(network: LogoNetwork, pixels: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network.epistemic_nats(torch.from_numpy(pixels)).numpy()


@pytest.mark.parametrize("precision", [0.1, 2.0, 40.0, 3000.0])
def test_the_epistemic_part_of_a_dirichlet_is_what_its_draws_disagree_on(precision):
    mean = torch.tensor([[0.7, 0.2, 0.1], [0.98, 0.01, 0.01]])
    nats = epistemic_nats("dirichlet", mean.log(), torch.full((2, 1), np.log(precision)))
    draws = np.random.default_rng(0)
    for row, expected in zip(mean.numpy(), nats.tolist(), strict=True):
        drawn = draws.dirichlet(row * precision, 200_000)[:, None]  # (M, 1, K)
        assert decompose(np.log(np.maximum(drawn, 1e-300))).epistemic[0] == pytest.approx(expected, rel=0.05, abs=2e-5)


@pytest.mark.parametrize("name", [MODEL, "test_efficientnet+measures"])
def test_a_teacher_says_the_same_by_onnx_runtime(name, pixels):
    torch.manual_seed(0)
    network = LogoNetwork(name, CLASSES).eval()
    teacher, views = OnnxTeacher(network, SIZE), torch.from_numpy(pixels).float()
    with torch.no_grad():
        logits = network(views)
    assert logits.std() > 0.001
    answer = teacher.answer(views)
    assert answer.logits.numpy() == pytest.approx(logits.numpy(), abs=1e-3)
    assert answer.evidence is None


def test_a_parent_with_a_head_gives_its_evidence_by_onnx_runtime(student, pixels):
    answer = OnnxTeacher(student, SIZE).answer(torch.from_numpy(pixels).float())
    with torch.no_grad():
        expected = student.answer(torch.from_numpy(pixels))
    assert answer.logits.numpy() == pytest.approx(expected.logits.numpy(), abs=1e-3)
    assert answer.evidence.numpy() == pytest.approx(expected.evidence.numpy(), abs=1e-3)


def test_a_teacher_that_says_something_else_as_onnx_is_refused(student, monkeypatch):
    other = LogoNetwork(MODEL, CLASSES).eval()
    torch.nn.init.normal_(other.backbone.get_classifier().weight)
    monkeypatch.setattr(soft_target_module, "export_body", lambda _, *rest: export_body(other, *rest))
    with pytest.raises(VerificationError, match=f"logits of teacher {MODEL}@{SIZE} as ONNX differ"):
        OnnxTeacher(student, SIZE)


def test_mutual_information_is_that_of_the_ensemble_s_decomposition():
    logits = np.random.default_rng(0).normal(0, 2, (3, 10, CLASSES)).astype(np.float32)
    information = mutual_information(torch.from_numpy(logits).softmax(2).transpose(0, 1))
    assert information.numpy() == pytest.approx(decompose(logits).epistemic, abs=1e-5)


def test_a_head_learns_what_its_members_disagree_on():
    random = torch.Generator().manual_seed(0)
    mean = torch.tensor([3.0, 0.0, 0.0, 0.0]).expand(64, 1, CLASSES)
    spread = torch.tensor([0.05] * 32 + [2.0] * 32)[:, None, None]
    members = mean + spread * torch.randn(64, 5, CLASSES, generator=random)
    logits = members.softmax(2).mean(1).log()
    information = mutual_information(members.softmax(2))
    for kind in KINDS:
        evidence = torch.zeros(64, 1, requires_grad=True)
        optimizer = torch.optim.Adam([evidence], lr=0.2)
        for _ in range(150):
            optimizer.zero_grad()
            epistemic_loss(kind, logits, evidence, members).backward()
            optimizer.step()
        nats = epistemic_nats(kind, logits, evidence.detach())
        assert nats[:32].max() < nats[32:].median(), kind
        assert nats.mean().item() == pytest.approx(information.mean().item(), rel=0.5), kind


def test_the_head_reaches_the_device_in_every_precision_within_what_rounding_moves(student, pixels, tmp_path):
    expected, kind = nats(student, pixels), student.epistemic.kind
    assert np.ptp(expected) > 0.05
    body = tmp_path / "body.onnx"
    exported = export_onnx(student, SIZE, tmp_path / "fp32.onnx", body=body)
    assert [output.name for output in onnx.load(exported).graph.output] == ["logits", EPISTEMIC]
    assert has_epistemic(exported)
    assert run_onnx(exported, pixels, output=EPISTEMIC) == pytest.approx(expected, abs=2e-4), kind
    save_model(to_float16(onnx.load(exported)), tmp_path / "fp16.onnx")
    assert run_onnx(tmp_path / "fp16.onnx", pixels, output=EPISTEMIC) == pytest.approx(expected, abs=0.02)
    int8 = quantize_body(body, body, pixels, SIZE, tmp_path / "int8.onnx", method="minmax", reduce_range=True)
    int8_nats = run_onnx(int8, pixels, output=EPISTEMIC)
    assert np.corrcoef(int8_nats, expected)[0, 1] > 0.9
    assert unknown_operators(onnx.load(int8)) == [], "it can be fine-tuned"
    network = QuantizedNetwork(onnx.load(int8), reduce_range=True)
    with torch.no_grad():
        answer = network.answer(torch.from_numpy(pixels))
    assert np.corrcoef(epistemic_nats(kind, answer.logits, answer.evidence).numpy(), int8_nats)[0, 1] > 0.98
    model = onnx.load(int8)
    network.write_integers(model)
    assert model.SerializeToString() == onnx.load(int8).SerializeToString()


def test_a_graph_without_the_head_has_one_output(pixels, tmp_path):
    exported = export_onnx(LogoNetwork(MODEL, CLASSES).eval(), SIZE, tmp_path / "plain.onnx")
    assert [output.name for output in onnx.load(exported).graph.output] == ["logits"]
    assert not has_epistemic(exported)


def test_a_checkpoint_tells_the_kind_of_its_head(student, pixels, tmp_path):
    save_member(tmp_path / "student.safetensors", student)
    again = load_network(tmp_path / "student.safetensors", Architecture(MODEL, SIZE), CLASSES)
    assert again.epistemic.kind == student.epistemic.kind
    assert nats(again, pixels) == pytest.approx(nats(student, pixels), abs=0.02)


@pytest.mark.parametrize("epistemic", ["off", *KINDS])
def test_every_loss_that_the_recipe_weighs_is_there_and_moves_the_student(epistemic, pixels):
    torch.manual_seed(0)
    config = DistillConfig(
        p_mixup=0.0, feature_weight=1.0, attention_weight=1.0, relation_weight=1.0, epistemic=epistemic
    )
    teachers, network = [LogoNetwork(MODEL, CLASSES).eval() for _ in range(2)], LogoNetwork(MODEL, CLASSES)
    if epistemic != "off":
        network.learn_epistemic(epistemic)
    network.match = torch.nn.Linear(network.count_features(), 2 * teachers[0].count_features())
    soft_targets = SoftTargets(teachers, [InputContract(48), InputContract(40)], CONTRACT, config)
    pictures = np.repeat(np.repeat(pixels[:8], 2, 1), 2, 2)[:, :48, :48]
    batch = soft_targets.collate(list(zip(pictures, torch.eye(CLASSES).repeat(2, 1), range(8), strict=True)))
    losses = distillation_objective(config, None)(network, *batch)
    names = ["distillation", "votes", "features", "attention", "relations", "epistemic"]
    assert list(losses) == names[: 5 + (epistemic != "off")]
    for name, loss in losses.items():
        network.zero_grad()
        loss.backward(retain_graph=True)
        moved = [
            key for key, parameter in network.named_parameters() if parameter.grad is not None and parameter.grad.any()
        ]
        assert moved, name


def test_the_teachers_features_stand_side_by_side_in_the_same_order_in_every_batch(pixels):
    torch.manual_seed(0)
    teachers = [LogoNetwork(MODEL, CLASSES).eval() for _ in range(3)]
    soft_targets = SoftTargets(teachers, [CONTRACT] * 3, CONTRACT, DistillConfig(p_mixup=0.0, feature_weight=1.0))
    taught = [
        soft_targets.collate([(picture, torch.eye(CLASSES)[0], position) for picture in pixels[:4]])
        for position in range(8)
    ]
    assert all(torch.equal(other[3], taught[0][3]) for other in taught)
    assert taught[0][3].shape == (4, 3 * teachers[0].count_features())


def test_relations_are_the_same_whatever_the_scale_and_the_turn_of_the_features():
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))
    assert relation_loss(features, 3 * features @ turn) < 1e-6
    assert relation_loss(features, features.flip(0) ** 2) > 1e-2
    assert relation_loss(features[:1], features[:1]) == 0


def test_attention_says_where_maps_are_strong_on_one_grid():
    network = LogoNetwork(MODEL, CLASSES)
    maps = torch.zeros(1, 3, 8, 8)
    maps[0, :, :2, :2] = 5.0
    strength = attention_map(maps, network)
    assert strength.shape == (1, 16)
    assert strength[0, 0] == 1
    assert torch.equal(attention_map(maps.repeat(1, 2, 1, 1), network), strength)


def test_pictures_that_are_no_logos_are_a_class_whose_logit_is_0(pixels):
    torch.manual_seed(0)
    soft_targets = SoftTargets([LogoNetwork(MODEL, CLASSES).eval()], [CONTRACT], CONTRACT, DistillConfig(p_mixup=0.0))
    targets = torch.eye(CLASSES + 1)[[0, CLASSES, 1, CLASSES]]
    views, votes, logits_of_teachers = soft_targets.collate(list(zip(pixels[:4], targets, range(4), strict=True)))
    assert torch.equal(votes, targets)
    network = LogoNetwork(MODEL, CLASSES)
    losses = distillation_objective(DistillConfig(hard_weight=1.0), None)(network, views, votes, logits_of_teachers)
    logits = network(views)
    expected = [functional.softplus(logits[row].logsumexp(0)) for row in (1, 3)]  # -log of 1 / (1 + sum exp)
    expected += [
        torch.cat([logits[row], torch.zeros(1)]).logsumexp(0) - logits[row, label] for row, label in ((0, 0), (2, 1))
    ]
    assert losses["votes"].item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-5)


def test_each_network_sees_a_picture_as_its_own_contract_has_it(pixels):
    pictures = [pixels[0], np.full((50, 90, 3), 200, np.uint8)]
    contracts = [InputContract(48), InputContract(40, details=True)]
    teachers = [LogoNetwork(MODEL, CLASSES), LogoNetwork("test_efficientnet+details", CLASSES)]
    soft_targets = SoftTargets(
        [teacher.eval() for teacher in teachers], contracts, CONTRACT, DistillConfig(p_mixup=0.0)
    )
    items = list(zip(pictures, torch.eye(CLASSES)[:2], range(2), strict=True))
    views, _, logits = soft_targets.collate(items)
    assert torch.equal(views, preprocess_pictures(pictures, CONTRACT))
    seen = [preprocess_pictures(pictures, contract) for contract in contracts]
    assert [tuple(part.shape) for part in seen] == [(2, 48, 48, 3), (2, 40, 40, 7)]
    with torch.no_grad():
        expected = torch.stack([teacher(part) for teacher, part in zip(teachers, seen, strict=True)], 1)
    assert logits == pytest.approx(expected, abs=1e-6)
    later = SoftTargets(soft_targets.teachers, contracts, CONTRACT, soft_targets.config, ask=False)
    _, votes, *batch = later.collate(items)
    assert torch.equal(later.answer(*batch)[0], logits), "as on a GPU, where the fit asks"
    assert votes.shape == (2, CLASSES)


def test_a_stored_batch_is_computed_once(pixels, tmp_path):
    teacher = LogoNetwork(MODEL, CLASSES).eval()
    asked = []
    teacher.backbone.get_classifier().register_forward_hook(lambda *_: asked.append(1))
    items = [(picture, torch.eye(CLASSES)[index % CLASSES], index) for index, picture in enumerate(pixels)]
    soft_targets = SoftTargets([teacher], [CONTRACT], CONTRACT, DistillConfig(p_mixup=1.0))
    stored = StoredBatches(items, soft_targets, tmp_path / "batches")
    first = stored.collate([stored[position] for position in (5, 2, 7)])
    assert len(asked) == 1
    again = StoredBatches(items, soft_targets, tmp_path / "batches").collate([5, 2, 7])
    assert len(asked) == 1
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    views, *further = soft_targets.collate([items[position] for position in (5, 2, 7)])
    assert (first[0] - views).abs().max() <= 0.5
    assert all(torch.equal(one, other) for one, other in zip(first[1:], further, strict=True))


def test_pictograms_and_drawn_logos_join_the_transfer_set_without_labels_and_without_look_alikes(tmp_path, monkeypatch):
    pictogram = LogoRow("@iconify-json/ph", "1", "box")
    drawn = [LogoRow("drawn", "key", name, name, "text", ("text",)) for name in ("wordmark", "alike")]
    asked = []
    monkeypatch.setattr(distill_module, "pictogram_rows", lambda _, count: asked.append(count) or [pictogram])
    monkeypatch.setattr(
        distill_module, "drawn_rows", lambda pairs, seed: asked.append((pairs, seed)) or drawn[: 2 * pairs]
    )
    monkeypatch.setattr(distill_module, "leave_out", lambda _, rows: ({rows[1]}, set()))
    manifest = Manifest((), tmp_path)
    assert distill_module.added_rows(manifest, DistillConfig(pictograms=8, drawn=1, seed=3)) == (
        pictogram,
        drawn[0].without_labels(),
    )
    assert asked == [8, (1, 3)]
    assert distill_module.added_rows(manifest, DistillConfig()) == ()


def test_epochs_that_repeat_see_all_logos_where_there_are_fewer_than_a_batch():
    order = RepeatedOrder(EpochOrder(7, seed=3), views=2, batch_size=64)
    for epoch in range(6):
        assert sorted(order(epoch)) == sorted(order(epoch % 2))
        assert len(order(epoch)) == 7


def test_a_student_that_starts_from_a_teacher_has_the_dropout_of_its_own_fit(pixels, tmp_path):
    teacher = LogoNetwork(MODEL, CLASSES, dropout=0.2).eval()
    sha256 = save_member(tmp_path / "member-0.safetensors", teacher)
    member = {"architecture": f"{MODEL}@{SIZE}", "file": "member-0.safetensors", "sha256": sha256}
    run = Run(tmp_path, {"members": [member], "classes": [str(index) for index in range(CLASSES)]})
    views = torch.from_numpy(pixels)
    for dropout in (0.0, 0.5):
        student = start_student(run, Architecture(MODEL, SIZE), DistillConfig(fit=DistillFit(dropout=dropout)))
        student.keep_statistics()
        with torch.no_grad():
            assert torch.allclose(student.eval()(views), teacher(views), atol=0.05)
            assert torch.equal(student.train()(views), student(views)) == (dropout == 0.0)


def test_later_epochs_repeat_whole_batches_of_the_first_ones():
    order = RepeatedOrder(EpochOrder(23, seed=3), views=2, batch_size=5)

    def batches(epoch):
        return [tuple(batch) for batch in order(epoch)[:20].reshape(4, 5).tolist()]

    for epoch in (2, 3, 4, 5):
        assert sorted(batches(epoch)) == sorted(batches(epoch % 2))
    assert batches(0) != batches(2) != batches(4)
    assert order(0)[:23].tolist() == EpochOrder(23, seed=3)(0).tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": -1}, "distill.views"),
        ({"epistemic": "dispersion", "teachers_per_batch": 1}, "needs all teachers"),
        ({"hard_weight": 1.5}, "hard_weight"),
        ({"feature_weight": -1.0}, "at least 0"),
        ({"prune": {"share": 1.5}}, "prune.share"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(settings, message):
    with pytest.raises(RecipeError, match=message):
        recipe_from_dict({"distill": settings})
