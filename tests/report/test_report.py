"""The report of real runs: what it reads, what it computes, what stands on the page."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text
from monitored import TOKENS_PER_STEP, Log, monitored
from runs import CONFIG
from torch.utils.tensorboard import SummaryWriter

from lit_recycle.advice.law import Part
from lit_recycle.advice.runs import read_runs
from lit_recycle.commands.report import main
from lit_recycle.report.figures import Plate, comparison, plates
from lit_recycle.report.read import RunLog, Series, read_run
from lit_recycle.report.report import budgets, loss_at
from lit_recycle.training.tensorboard import write_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that grew twice, and one that did not, logged by the same monitors."""
    root = tmp_path_factory.mktemp("report")
    monitored(root / "grown", saves=())
    monitored(root / "plain", saves=(), events=[], steps=6)
    with SummaryWriter(str(root / "grown")) as writer:
        write_text(writer, "run/sample", "```\nOnce <i>upon</i>\na time\n```", 9)
    (root / "grown" / "config.yaml").write_text("secret: <b>bold</b>\n")
    return root


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    assert main([str(folder / "grown"), "--out", str(folder / "out")]) == 0
    return folder / "out" / "report.html"


def test_stages_are_those_of_the_run(folder: Path) -> None:
    stages = read_run(folder / "grown").stages()
    assert [(s.begin[0], s.end[0]) for s in stages] == [(0, 3), (3, 6), (6, 9)]
    assert [(s.begin[1], s.end[1]) for s in stages] == [
        (n * TOKENS_PER_STEP, (n + 3) * TOKENS_PER_STEP) for n in (0, 3, 6)
    ]
    assert [(s.sizes["layers"], s.sizes["experts"]) for s in stages] == [(3, 3), (6, 3), (6, 6)]
    assert [s.record and s.record["steps"] for s in stages] == [None, 3, 6]


def test_axes_are_exact_between_growths_and_zero_of_extra_is_the_first_growth(folder: Path) -> None:
    run = read_run(folder / "grown")
    assert run.at([0, 1.5, 4, 9], "tokens").tolist() == [
        0,
        1.5 * TOKENS_PER_STEP,
        4 * TOKENS_PER_STEP,
        9 * TOKENS_PER_STEP,
    ]
    flops = Log(folder / "grown").points("compute/flops")
    assert run.at([3], "flops")[0] == pytest.approx(flops[2][1], rel=1e-6)
    assert run.at([3], "extra")[0] == 0 and run.at([2], "extra")[0] < 0 < run.at([4], "extra")[0]
    assert run.at([9], "extra")[0] == pytest.approx(flops[8][1] - flops[2][1], rel=1e-6)
    assert read_run(folder / "plain").sunk_flops == 0


def line(name: str, flops: list[float], losses: list[float], sunk: int = 0) -> RunLog:
    """A run of a step per FLOP count, validated before each."""
    steps = np.arange(len(flops))
    growth = [{"steps": 1, "tokens": 1, "flops": sunk}] if sunk else []
    scalars = {
        "compute/tokens": Series(steps, steps + 1.0),
        "compute/flops": Series(steps, np.array(flops)),
        "loss/val": Series(steps, np.array(losses)),
    }
    start = {"steps": 0, "tokens": 0, "flops": 0}
    return RunLog(name, Path(), scalars, {}, {}, start, growth)


def test_losses_are_compared_at_the_same_budget() -> None:
    grown, plain = line("grown", [10, 20, 30], [5.0, 4.0, 3.0], sunk=10), line("plain", [8, 16, 24], [6.0, 4.0, 2.0])
    assert loss_at(grown, "flops", 24) == pytest.approx(3.6)
    assert loss_at(plain, "flops", 24) == pytest.approx(2.0)
    assert loss_at(grown, "extra", 15) == pytest.approx(3.5)
    assert loss_at(plain, "extra", 20) == pytest.approx(3.0)
    assert loss_at(plain, "flops", 25) is None


def test_page_is_whole_and_needs_no_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', text)
    assert len(sources) >= 10 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text) and "<script" not in text
    assert "<h2>Sampled text</h2>\n<pre>Once &lt;i&gt;upon&lt;/i&gt;\na time</pre>" in text
    assert "secret: &lt;b&gt;bold&lt;/b&gt;" in text
    for words in ("depth ×2", "experts ×2", "6 × 6 (4)", "3 – 6", "Expert load", "Weight norms", "Configuration"):
        assert words in text, words
    opened: list[str] = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            if tag not in ("meta", "img", "!doctype"):
                opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Balanced().feed(text)
    assert not opened


def test_pictures_on_the_page_are_the_files_beside_it(page: Path) -> None:
    inside = {base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", page.read_text())}
    files = {path.read_bytes() for path in page.parent.glob("*.png")}
    assert inside == files and not list(page.parent.glob("*.part"))
    pixels = imread(page.parent / "loss_steps.png")
    assert pixels.shape[0] >= 600 and len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50


def test_figures_name_axes_units_and_growths(folder: Path) -> None:
    made = {plate.name: plate for section in plates(read_run(folder / "grown")).values() for plate in section}
    for name, xlabel, ylabel in (
        ("loss_tokens", "training tokens", "loss (nats per token)"),
        ("loss_flops", "training FLOPs", "loss (nats per token)"),
        ("experts_load_max", "optimizer steps", "load / ideal load"),
        ("norm_profile", "position in the model (% of its layers)", "root mean square weight"),
        ("expert_load", "expert", "layer"),
    ):
        axes = made[name].figure.axes[0]
        assert (axes.get_xlabel(), axes.get_ylabel()) == (xlabel, ylabel)
    axes = made["loss_tokens"].figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["depth ×2", "experts ×2"]
    marks = [float(line.get_xdata()[0]) for line in axes.lines if line.get_linestyle() == "--"]
    assert marks == [3 * TOKENS_PER_STEP, 6 * TOKENS_PER_STEP]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation"]


def test_titles_are_their_own_and_all_words_are_inside_the_figures(folder: Path) -> None:
    runs = [read_run(folder / name) for name in ("grown", "plain")]
    many = replace(runs[0], growth=runs[0].growth * 7)
    for made in (*map(_all_plates, runs), comparison(runs), _all_plates(many)):
        titles = [plate.figure.axes[0].get_title("left") for plate in made]
        assert len(set(titles)) == len(titles) > 3 and all(titles)
        for plate in made:
            plate.figure.draw_without_rendering()
            ticks = {tick for axes in plate.figure.axes for tick in (*axes.get_xticklabels(), *axes.get_yticklabels())}
            words = [t for t in plate.figure.findobj(Text) if t.get_text() and t not in ticks]
            edges = [t.get_window_extent() for t in words]
            width, height = plate.figure.bbox.size
            assert all(e.x0 >= -1 and e.x1 <= width + 1 and e.y0 >= -1 and e.y1 <= height + 1 for e in edges), (
                plate.name
            )
            assert min(t.get_fontsize() for t in words) / plate.figure.get_figwidth() >= 1.4, "readable as a thumbnail"
    marks = [text.get_text() for text in _all_plates(many)[0].figure.axes[0].texts]
    assert marks == [str(number) for number in range(1, 15)], "by their numbers in the table of stages"


def _all_plates(run: RunLog) -> list[Plate]:
    return [plate for section in plates(run).values() for plate in section]


def test_several_runs_are_drawn_over_the_same_axes(folder: Path) -> None:
    runs = [read_run(folder / name) for name in ("grown", "plain")]
    made = {plate.name: plate.figure.axes[0] for plate in comparison(runs)}
    assert set(made) == {"compare_flops", "compare_extra", "compare_tokens", "compare_steps"}
    for axes in made.values():
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["grown", "plain"]
    assert min(made["compare_extra"].lines[0].get_xdata()) >= 0
    assert "<td>plain</td><td>none</td>" in budgets(runs)
    assert main([str(folder / "grown"), str(folder / "plain"), "--out", str(folder / "both")]) == 0
    assert (folder / "both" / "grown_loss_steps.png").exists() and (folder / "both" / "plain_loss_steps.png").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "there is no folder"),
        ("out", "holds no logs"),
        ("", "holds the logs of several runs"),
        ("foreign", "hold no run/start and no compute/tokens"),
    ],
)
def test_a_folder_that_cannot_be_reported_on_is_named(folder: Path, page: Path, name: str, words: str) -> None:
    with SummaryWriter(str(folder / "foreign")) as writer:
        writer.add_scalar("loss", 1.0, 0)
    with pytest.raises(ValueError, match=words) as error:
        read_run(folder / name)
    assert str(folder) in str(error.value)


def test_the_same_run_twice_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="give each run once"):
        main([str(folder / "grown"), str(folder / "grown"), "--out", str(folder / "twice")])


def test_a_loss_law_takes_a_run_as_its_logs_tell_it(folder: Path) -> None:
    (run,) = read_runs([folder / "grown"])
    deep = CONFIG.replace(num_layers=6)
    sizes = (CONFIG, deep, deep.replace(num_experts=6, top_k=4))
    assert run.parts == tuple(Part(3 * TOKENS_PER_STEP, size.num_active_params(), size.num_params()) for size in sizes)
    assert run.loss == pytest.approx(read_run(folder / "grown").scalars["loss/val"].values[-1])
