"""What monitors log, computed once more by hand, on one device and on several processes."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from monitored import STEPS, TOKENS_PER_STEP, Log, counts_by_hand, monitored
from runs import CONFIG, assert_same_training_state, fit, on_processes
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor

from lit_recycle.callbacks import ComputeMonitor
from lit_recycle.callbacks.compute import SETTLED
from lit_recycle.checkpoints.native import load_whole_checkpoint, read_hyperparameters
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger

STRATEGIES = ("auto", "ddp", "fsdp", "fsdp2")
RELATIVE = 2e-5
"""Points are float32."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on one device and on two processes under each strategy."""
    root = tmp_path_factory.mktemp("monitors")
    monitored(root / "auto")
    on_processes(2, train, root)
    return root


def train(root: Path) -> None:
    for strategy in STRATEGIES[1:]:
        monitored(root / strategy, strategy)


@pytest.fixture(params=STRATEGIES)
def run(request: pytest.FixtureRequest, root: Path) -> Path:
    return root / request.param


def checkpoint(run: Path, step: int) -> dict:
    return load_whole_checkpoint(run / "checkpoints" / f"step={step}.ckpt")


def layer(tensors: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    begin = f"model.layers.{number}."
    return {name.removeprefix(begin): t.double() for name, t in tensors.items() if name.startswith(begin)}


def test_expert_load_is_what_counting_by_hand_gives(run: Path) -> None:
    log = Log(run)
    for step in range(STEPS):
        loads, effective, dead = [], [], 0
        for counts in counts_by_hand(run, step).tolist():
            total = sum(counts)
            loads.append(max(counts) * len(counts) / total)
            effective.append(math.exp(-sum(c / total * math.log(c / total) for c in counts if c)))
            dead += counts.count(0)
        assert log.value("experts/load_max", step) == pytest.approx(max(loads), RELATIVE)
        assert log.value("experts/layer_00/load_max", step) == pytest.approx(loads[0], RELATIVE)
        assert log.value("experts/effective", step) == pytest.approx(sum(effective) / len(effective), RELATIVE)
        assert log.value("experts/dead", step) == dead
        first = torch.tensor(counts_by_hand(run, step)[0].tolist(), dtype=torch.float64)
        assert log.value("experts/layer_00/load_cv", step) == pytest.approx(
            float(first.std(correction=0) / first.mean()), 1e-4
        )


def test_norms_are_those_of_the_saved_weights(run: Path) -> None:
    log = Log(run)
    for step in (3, 6, 9):
        weights, profile = checkpoint(run, step)["state_dict"], []
        for number in range(3 if step <= 3 else 6):
            experts = layer(weights, number)
            norms = []
            for gate_up, down in zip(experts["moe.experts.gate_up"], experts["moe.experts.down"], strict=True):
                inner = len(gate_up) // 2
                for matrix in (gate_up[:inner], gate_up[inner:], down):
                    norms.append(float(matrix.square().sum().sqrt()) / math.sqrt(matrix.numel()))
            profile.append(sum(norms) / len(norms))
        assert log.value("norms/mean", step - 1) == pytest.approx(sum(profile) / len(profile), RELATIVE)
        assert log.value("norms/layer_00", step - 1) == pytest.approx(profile[0], RELATIVE)
        assert log.value(f"norms/layer_{len(profile) - 1:02d}", step - 1) == pytest.approx(profile[-1], RELATIVE)


def test_cosines_are_those_of_the_saved_weights_and_moments(run: Path) -> None:
    """After both growths layer 1 is the copy of layer 0, and expert 1 that of expert 0."""
    saved, log = checkpoint(run, 9), Log(run)
    (optimizer,) = saved["optimizer_states"]
    names = [name for group in optimizer["param_groups"] for name in group["param_names"]]
    order = [i for group in optimizer["param_groups"] for i in group["params"]]
    moments = {name: optimizer["state"][i]["exp_avg"] for i, name in zip(order, names, strict=True)}
    for what, tensors in (("weights", saved["state_dict"]), ("momentum", moments)):
        first, second = layer(tensors, 0), layer(tensors, 1)
        matrices = [name for name in first if first[name].dim() > 1]
        expected = cosine([first[name] for name in matrices], [second[name] for name in matrices])
        assert log.value(f"growth/layer_01/cosine_layers_{what}", 8) == pytest.approx(expected, RELATIVE)
        experts = [first["moe.experts.gate_up"], first["moe.experts.down"]]
        pairs = [cosine([t[e] for t in experts], [t[e + 1] for t in experts]) for e in (0, 2, 4)]
        assert log.value(f"growth/layer_00/cosine_experts_{what}", 8) == pytest.approx(sum(pairs) / 3, RELATIVE)
    assert not [step for step, _ in log.points("growth/cosine_layers_weights") if step < 3]
    assert not [step for step, _ in log.points("growth/cosine_experts_weights") if step < 6]


def cosine(one: list[Tensor], other: list[Tensor]) -> float:
    a, b = (torch.cat([t.flatten() for t in tensors]) for tensors in (one, other))
    return float(a @ b / (a.norm() * b.norm()))


def test_tokens_of_copies_are_counted_by_hand(run: Path) -> None:
    log = Log(run)
    for step in (6, 8):
        shares = [sum(counts[1::2]) / sum(counts) for counts in counts_by_hand(run, step).tolist()]
        assert log.value("growth/copies_token_share", step) == pytest.approx(sum(shares) / len(shares), RELATIVE)
    assert log.points("growth/copies_token_share")[0][0] == 6


def test_flops_follow_from_the_shapes_of_the_saved_matrices(run: Path) -> None:
    """Six per weight that a token meets, and attention: 12 · layers · heads · head size · sequence length."""
    log, spent = Log(run), 0
    for step in range(1, STEPS + 1):
        layers, experts, top_k = (3, 3, 2) if step <= 3 else (6, 3, 2) if step <= 6 else (6, 6, 4)
        met = sum(
            t.numel() * (top_k / experts if ".experts." in name else 1)
            for name, t in checkpoint(run, -(-step // 3) * 3)["state_dict"].items()
            if t.dim() > 1 and "embed" not in name
        )
        spent += TOKENS_PER_STEP * (6 * met + 12 * layers * CONFIG.hidden_size * 32)
        assert log.value("compute/flops", step - 1) == pytest.approx(spent, 1e-6)
        assert log.value("compute/tokens", step - 1) == step * TOKENS_PER_STEP
        if step == 3:
            sunk = spent
    assert log.value("compute/flops_extra", 2) == 0
    assert log.value("compute/flops_sunk", 2) == log.value("compute/flops", 2) > 0
    assert log.value("compute/flops_sunk", 8) == pytest.approx(sunk, 1e-6)
    assert log.value("compute/flops_extra", 8) == pytest.approx(spent - sunk, 1e-6)


def test_sizes_are_those_of_the_saved_models_and_their_mean_over_tokens(run: Path) -> None:
    def size(step: int) -> int:
        tensors = checkpoint(run, step)["state_dict"]
        return sum(t.numel() for name, t in tensors.items() if not name.endswith("balance_bias"))

    log = Log(run)
    assert log.value("compute/params", 8) == size(9)
    assert log.value("compute/params_mean", 7) == pytest.approx((3 * size(3) + 3 * size(6) + 2 * size(9)) / 8, 1e-6)


def test_steps_of_sizes_are_steep_and_validation_is_drawn_as_measured(run: Path) -> None:
    """Whatever TensorBoard smooths: it keeps one point of a tag at each step, and weighs the newest with 0.4."""
    log = Log(run)
    for tag, sizes in (("compute/layers", [3, 6, 6]), ("compute/experts", [3, 3, 6])):
        assert log.points(tag) == [(step, sizes[step // 3]) for step in range(STEPS)]
    (layout,) = log.events.Tensors("custom_scalars__config__")
    pages = Layout.FromString(layout.tensor_proto.string_val[0])
    unsmoothed = {s.value for page in pages.category for chart in page.chart for s in chart.margin.series}
    assert {"loss/val", "compute/params", "compute/active_params"} == unsmoothed < set(log.tags)


def test_losses_lie_over_tokens_and_flops_too(run: Path) -> None:
    log, tokens = Log(run), Log(run / "over_tokens")
    by_step = log.points("loss/train")
    assert len(by_step) == STEPS
    assert tokens.points("loss/train_over_tokens") == [(step * TOKENS_PER_STEP, loss) for step, loss in by_step]
    validated = [((step + 1) * TOKENS_PER_STEP - 1, loss) for step, loss in log.points("loss/val")]
    assert tokens.points("loss/val_over_tokens") == validated and len(validated) == 4
    flops = Log(run / "over_GFLOPs").points("loss/train_over_GFLOPs")
    assert [loss for _, loss in flops] == [loss for _, loss in by_step]
    before = [0, *[value for _, value in log.points("compute/flops")]]
    assert [x for x, _ in flops] == [math.ceil(count / 1e9) for count in before[:-1]]


def test_growths_are_marked_where_they_happened(run: Path) -> None:
    tokens = Log(run / "over_tokens")
    for number, step in ((1, 3), (2, 6)):
        (low_at, low), (high_at, high) = tokens.points(f"growth/mark_{number}_over_tokens")
        assert (low_at, high_at) == (step * TOKENS_PER_STEP, step * TOKENS_PER_STEP + 1)
        assert low < Log(run).value("growth/loss_before", step) < high


def test_pictures_are_there_and_their_numbers_too(run: Path) -> None:
    events = Log(run).events
    assert [image.step for image in events.Images("experts/load")] == [3, 7, 8]  # and at the end
    assert [image.step for image in events.Images("norms/profile")] == [3, 3, 6, 7, 8]  # and after each growth
    assert [image.step for image in events.Images("growth/cosines")] == [3, 7, 8]
    assert all(image.width >= 300 and image.height >= 200 for image in events.Images("norms/profile"))
    loads = [point.tensor_proto.tensor_shape for point in events.Tensors("experts/load/data")]
    assert [[dim.size for dim in shape.dim] for shape in loads] == [[6, 3], [6, 6], [6, 6]]


def test_number_of_series_is_capped(run: Path) -> None:
    """Two layers of six have curves of their own."""
    tags = Log(run).tags
    assert sorted(t for t in tags if t.startswith("experts/layer_") and t.endswith("/dead")) == [
        "experts/layer_00/dead",
        "experts/layer_02/dead",  # the last of the three at first
        "experts/layer_05/dead",
    ]
    assert len(tags) < 80


def test_pages_of_tensorboard_are_laid_out(run: Path) -> None:
    events = Log(run).events
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    (plan,) = events.Tensors("run/plan")
    text = plan.tensor_proto.string_val[0].decode()
    assert "`0 0 1 1 2 2`" in text and "6 × 6 (4)" in text
    assert [point.step for point in events.Tensors("growth/record")] == [3, 6]
    assert "_hparams_/session_start_info" in events.summary_metadata
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    columns = HParamsPluginData.FromString(content).session_start_info.hparams
    assert sorted(columns)[:4] == ["experts", "growth", "layers", "lr"], "those that are shown at first"
    assert b"tokens_per_step" in content and "depth ×2 @3, experts ×2 @6".encode() in content
    metrics = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    assert b"loss/val" in metrics and "loss/val" in Log(run).tags


def test_other_loggers_get_the_scalars_as_well(run: Path) -> None:
    names = (run / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")
    mine = {tag for tag in Log(run).tags if tag.split("/")[0] in ("experts", "norms", "growth", "compute")}
    assert mine and mine <= set(names)


def test_monitors_change_no_bit(tmp_path: Path, root: Path) -> None:
    _, module, losses = fit(tmp_path, limit_val_batches=1, val_check_interval=2)
    logged = [value for _, value in Log(root / "auto").points("loss/train")]
    assert torch.equal(torch.tensor(losses), torch.tensor(logged))
    assert_same_training_state(tmp_path / "checkpoints/step=9.ckpt", root / "auto/checkpoints/step=9.ckpt")
    assert read_hyperparameters(root / "auto/checkpoints/step=9.ckpt")["growth"] == module.growth


def test_sizes_are_logged_at_both_sides_of_a_growth_and_until_smoothing_has_followed(tmp_path: Path) -> None:
    """Ten steps are between points: TensorBoard, which weighs the newest point with 0.4, would draw a slope."""
    logger = CSVLogger(tmp_path / "csv", name="", version="")
    options = {"logger": logger, "log_every_n_steps": 10, "callbacks": [ComputeMonitor()], "saves": ()}
    fit(tmp_path, steps=20, events=[GrowthEvent(Trigger(steps=5), depth=Depth(2))], **options)
    with open(tmp_path / "csv/metrics.csv", newline="") as lines:
        points = {
            int(row["step"]): float(row["compute/layers"]) for row in csv.DictReader(lines) if row["compute/layers"]
        }
    assert points == {4: 3, **dict.fromkeys(range(5, 5 + SETTLED), 6), 19: 6} and 0.6**SETTLED < 0.02
