"""The page about operators does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from helpers import built, grown_by, tiny, tokens
from jsonargparse import ArgumentParser

from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.facts import Unmeasured
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.plan import plan_growth

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "write-an-operator.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_passes_its_test_and_runs_on_disk(tmp_path):
    operator, test, *_ = blocks("python")
    (tmp_path / "my_operators.py").write_text(operator)
    (tmp_path / "test_my_operators.py").write_text(test)
    pythonpath = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT / 'tests')!r}]; "
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            pythonpath + "import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '.']))",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "2 passed" in run.stdout, run.stdout + run.stderr
    command = blocks("bash")[0]
    assert "my_operators.CopyLast" in command
    event = yaml.safe_load(blocks("yaml")[0])["trainer"]["callbacks"][0]["init_args"]["events"][0]
    parsed = "import json; from jsonargparse import ArgumentParser; from lit_recycle.growth.event import GrowthEvent; "
    parsed += "p = ArgumentParser(exit_on_error=False); p.add_argument('--e', type=GrowthEvent); "
    parsed += f"print(p.instantiate(p.parse_object({{'e': {event!r}}})).e.operators[0])"
    run = subprocess.run([sys.executable, "-c", pythonpath + parsed], cwd=tmp_path, capture_output=True, text=True)
    assert "CopyLast(" in run.stdout and "times=2, noise=0.01" in run.stdout, run.stderr


def test_the_other_examples_leave_the_function():
    names: dict = {}
    exec("\n".join(blocks("python")[2:]), names)
    model = built(tiny())
    inner, experts = grown_by(model, names["DoubleInner"]()), grown_by(model, names["RotateExperts"](by=2))
    assert inner.config.expert_size == 2 * model.config.expert_size
    assert experts.config.num_experts == 6 and experts.config.top_k == 2 * model.config.top_k
    rows, before = (m.state_dict()["layers.1.moe.router.weight"] for m in (experts, model))
    assert torch.equal(rows, before[[0, 1, 2, 2, 0, 1]])
    for after in (inner, experts):
        assert (after(tokens(model.config))[0] - model(tokens(model.config))[0]).abs().max() < 1e-12


def test_the_event_on_the_page_of_operators_can_be_planned():
    text = (ROOT / "docs" / "operators.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--events", type=list[GrowthEvent])
    (event,) = parser.instantiate(parser.parse_object(yaml.safe_load(block))).events
    model = NativeModel(tiny(num_layers=24, num_experts=64, top_k=4))
    after = plan_growth(model, event.operators, facts=Unmeasured).after
    assert (after.size("D"), after.size("E"), after.top_k, after.num_layers) == (16, 96, 6, 40)


def test_the_table_of_operators_is_what_the_command_prints():
    command = [sys.executable, "-m", "lit_recycle.cli", "operators", "--markdown"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() in (ROOT / "docs" / "operators.md").read_text()
