"""Folders in block-FP8: multiplied out by hand, written in bfloat16, trained and grown as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pico
import pytest
import torch
from runs import fit
from safetensors.torch import load_file, save_file

from lit_recycle.cli import main
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
from lit_recycle.hub.dequantize import multiply_out
from lit_recycle.training.module import LitMoE

BLOCKS = [4, 8]


def test_blocks_by_hand() -> None:
    weight = torch.arange(15.0).view(3, 5).to(torch.float8_e4m3fn)
    scales = torch.tensor([[1.0, 10.0], [0.5, 2.0]])
    expected = weight.float() * torch.tensor([[1, 1, 1, 10, 10]] * 2 + [[0.5, 0.5, 0.5, 2, 2]])
    assert torch.equal(multiply_out(weight, scales, (2, 3)), expected)
    with pytest.raises(ValueError, match="do not belong to"):
        multiply_out(weight, scales, (1, 3))


def quantized(folder: Path) -> dict[str, torch.Tensor]:
    """Make a tiny DeepSeek-V3 folder in block-FP8; returns what its weights are, multiplied out."""
    pico.build("deepseek_v3", vocab_size=260).save_pretrained(folder)
    tensors, plain = load_file(folder / "model.safetensors"), {}
    for name in list(tensors):
        plain[name] = tensors[name]
        if tensors[name].dim() == 2 and "proj" in name:
            rows, columns = tensors[name].shape
            scales = torch.rand(-(-rows // BLOCKS[0]), -(-columns // BLOCKS[1])) + 0.5
            spread = scales.repeat_interleave(BLOCKS[0], 0)[:rows].repeat_interleave(BLOCKS[1], 1)[:, :columns]
            tensors[name] = (tensors[name] / spread).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scales
            plain[name] = tensors[name].float() * spread
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": BLOCKS}
    (folder / "config.json").write_text(json.dumps(config))
    return plain


def test_it_trains_grows_and_is_written_in_bfloat16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = quantized(tmp_path / "fp8")
    module = LitMoE(init_from=str(tmp_path / "fp8"))
    module.configure_model()
    name = "model.layers.0.self_attn.o_proj.weight"
    assert torch.equal(module.state_dict()[f"model.hf.{name}"], plain[name])
    events = [GrowthEvent(Trigger(steps=1), depth=Depth(2)), GrowthEvent(Trigger(steps=2), width=Width(2, noise=0.01))]
    start = {"init_from": str(tmp_path / "fp8")}
    _, trained, losses = fit(tmp_path / "run", steps=3, events=events, config=None, module=start)
    assert len(losses) == 3 and trained.shape.num_layers == 4 and "quantization_config" not in trained.shape.config

    assert main(["dequantize", str(tmp_path / "fp8"), str(tmp_path / "bf16")]) == 0, capsys.readouterr().err
    written = load_file(tmp_path / "bf16/model.safetensors")
    assert written.keys() == plain.keys()
    assert written[name].dtype == torch.bfloat16 and torch.equal(written[name], plain[name].bfloat16())
    assert pico.load(tmp_path / "bf16").config.num_hidden_layers == 2
    assert main(["grow", str(tmp_path / "bf16"), str(tmp_path / "grown"), "--width", "2", "--noise", "0.01"]) == 0


@pytest.mark.parametrize(
    ("method", "says"),
    [({}, "not quantised"), ({"quantization_config": {"quant_method": "gptq"}}, "quantised by gptq")],
)
def test_others_are_refused(tmp_path: Path, method: dict, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    pico.build("olmoe").save_pretrained(tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text()) | method
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    assert main(["dequantize", str(tmp_path / "hf"), str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()
    if method:
        with pytest.raises(ValueError, match="quantised by gptq, and cannot be trained"):
            LitMoE(init_from=str(tmp_path / "hf"))


def test_scales_that_are_missing(tmp_path: Path) -> None:
    quantized(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.0.self_attn.o_proj.weight_scale_inv"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds no .*o_proj\.weight_scale_inv"):
        LitMoE(init_from=str(tmp_path))
