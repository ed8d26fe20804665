"""A client that nobody here wrote: EleutherAI's lm-eval scores an exported model as our own model does."""

import pytest
import torch
from lm_tasks import write_task

from lit_recycle.data.tokenizer import ByteTokenizer
from lit_recycle.hub.export import export_checkpoint
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.transformer import MoETransformer

lm_eval = pytest.importorskip("lm_eval", reason="a large install of its own: pip install 'lm-eval[hf]'")

QUESTIONS = ["The capital of France is", "Two and two are", "def f(x):"]
CHOICES = [" Paris", " four", " return x"]


@torch.inference_mode()
def log_likelihood(model, question, choice):
    ids = torch.tensor([list((question + choice).encode())])
    scores = model(ids[:, :-1])[0].log_softmax(-1)[0].gather(1, ids[0, 1:, None])
    return scores[-len(choice.encode()) :].sum().item()


def test_lm_eval_scores_an_export_as_we_do(tmp_path, monkeypatch):
    from lm_eval.tasks import TaskManager

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    config = MoEConfig(vocab_size=257, hidden_size=32, num_layers=2, num_heads=2, expert_size=16, qk_norm="head")
    model = MoETransformer(config.replace(init_std=0.3)).eval()
    model.init_weights(0)
    checkpoint = {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "hyper_parameters": {"config": config.to_dict(), "growth": []},
        "global_step": 0,
        "TextData": {"tokenizer": ByteTokenizer().to_dict(), "seq_len": 128},
    }
    torch.save(checkpoint, tmp_path / "run.ckpt")
    export_checkpoint(tmp_path / "run.ckpt", tmp_path / "hub")
    rows = [{"question": q, "choices": CHOICES, "answer": i} for i, q in enumerate(QUESTIONS)]
    write_task(tmp_path, "tiny", rows)
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={tmp_path / 'hub'},dtype=float32",
        tasks=["tiny"],
        task_manager=TaskManager(include_path=str(tmp_path)),
        device="cpu",
        log_samples=True,
        bootstrap_iters=0,
    )
    expected = torch.tensor([[log_likelihood(model, q, c) for c in CHOICES] for q in QUESTIONS])
    samples = sorted(results["samples"]["tiny"], key=lambda sample: sample["doc_id"])
    found = torch.tensor([[float(r[0]) for r in sample["filtered_resps"]] for sample in samples])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    right = (expected.argmax(1) == torch.arange(3)).float().mean().item()
    assert results["results"]["tiny"]["acc,none"] == pytest.approx(right)
