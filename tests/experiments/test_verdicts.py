"""What is said of claims follows from the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_recycle.experiments.comparison import METRICS, Comparison
from lit_recycle.experiments.definition import load_experiments
from lit_recycle.experiments.results import Results, difference, noise_of, spread
from lit_recycle.experiments.verdicts import correlations, verdict

ROOT = Path(__file__).parents[2]


def result(seed: int, loss: float, accuracy: float = 0.5) -> dict[str, Any]:
    return {"seed": seed, "metrics": {"loss": loss, "accuracy": accuracy}}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([1.00, 1.10, 1.20], [1.05, 1.15, 1.26], "agrees with the claim"),
        ([1.05, 1.15, 1.26], [1.00, 1.10, 1.20], "contradicts the claim"),
        ([1.00, 1.10, 1.20], [1.10, 1.00, 1.21], "inside the noise"),
        ([1.00, 1.10, 1.20], [1.02, 1.14, 1.26], "inside the noise"),  # 3.5 standard errors, but of three seeds
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [1.02, 1.14, 1.26, 1.32, 1.44, 1.56], "agrees with the claim"),
        ([1.00], [1.10], "one seed only"),
        ([1.00], [], "not measured yet"),
    ],
)
def test_verdicts(first: list[float], second: list[float], said: str) -> None:
    runs = [[result(seed, loss, 2 - loss) for seed, loss in enumerate(losses)] for losses in (first, second)]
    for metric in ("loss", "accuracy"):  # of which the one is better when low, the other when high
        assert said in verdict(Comparison("a", "b", by=metric), "", *runs)


@pytest.mark.parametrize(
    ("second", "equal", "unclaimed"),
    [
        ([1.05, 1.15, 1.26], "contradicts the claim", "a is better"),
        ([0.95, 1.05, 1.14], "contradicts the claim", "b is better"),
        ([1.10, 1.00, 1.21], "inside the noise, as the claim has it", "inside the noise"),
    ],
)
def test_claims_of_equality_and_none(second: list[float], equal: str, unclaimed: str) -> None:
    runs = [[result(seed, loss, 2 - loss) for seed, loss in enumerate(losses)] for losses in ([1.0, 1.1, 1.2], second)]
    for metric in ("loss", "accuracy"):
        assert f"*a* as good as *b*, by {METRICS[metric]}: " in verdict(
            Comparison("a", "b", "equal", metric), "", *runs
        )
        assert verdict(Comparison("a", "b", "equal", metric), "", *runs).endswith(f"**{equal}**.")
        assert verdict(Comparison("a", "b", None, metric), "", *runs).endswith(f"**{unclaimed}**.")


@pytest.mark.parametrize("entry", [{"better": "a"}, {"equal": ["a", "b", "c"]}, {"compare": ["a", "b"], "worse": "a"}])
def test_an_entry_that_is_no_comparison_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="an entry of expect is"):
        Comparison.from_dict(entry, {"axis": ["a", "b", "c"]})


def test_a_comparison_holds_at_the_points_that_it_names() -> None:
    axes = {"sunk": ["1", "8"], "copies": ["stack", "middle", "8"]}
    points = [{"sunk": sunk, "copies": copies} for sunk in axes["sunk"] for copies in axes["copies"]]
    everywhere = Comparison.from_dict({"compare": ["stack", "middle"]}, axes)
    assert [where for where, _, _ in everywhere.pairs(points)] == ["sunk 1", "sunk 8"]
    ((where, first, second),) = Comparison.from_dict({"compare": ["8", "1"], "where": {"copies": 8}}, axes).pairs(
        points
    )
    assert (where, first, second) == ("copies 8", {"sunk": "8", "copies": "8"}, {"sunk": "1", "copies": "8"})


def test_three_seeds_that_are_alike_by_chance_are_held_against_the_other_pairs() -> None:
    """Differences of a, b and c: by hand, variances of 1e-4, 4e-4 and 1e-4 together, and two of them independent."""
    runs = {
        name: [result(seed, 1 + change / 100) for seed, change in enumerate(changes)]
        for name, changes in {"a": (0, 0, 0), "b": (4.9, 5, 5.1), "c": (-1, 0, 1)}.items()
    }
    found = [(x, y, difference(runs[x], runs[y], "loss")) for x, y in (("a", "b"), ("b", "c"), ("a", "c"))]
    noise = noise_of([(x, y, change) for x, y, change in found if change])
    assert noise and noise.freedom == 4
    assert noise.variance == pytest.approx((0.1**2 + 0.9**2 + 1.0**2) / 3 / 1e4)
    alone, together = (verdict(Comparison("a", "b"), "", runs["a"], runs["b"], n) for n in (None, noise))
    assert alone.endswith("**agrees with the claim**.") and together.endswith("**agrees with the claim**.")
    close = [result(seed, 1 + change / 100) for seed, change in enumerate((0.49, 0.5, 0.51))]
    alone, together = (verdict(Comparison("a", "d"), "", runs["a"], close, n) for n in (None, noise))
    assert alone.endswith("**agrees with the claim**.") and together.endswith("**inside the noise**.")


def test_differences_that_are_not_connected_are_independent() -> None:
    change = difference([result(s, s / 10) for s in range(3)], [result(s, s / 5) for s in range(3)], "loss")
    single = difference([result(0, 1.0)], [result(0, 1.1)], "loss")
    assert change and single
    noise = noise_of([("a", "b", change), ("c", "d", change), ("a", "c", change), ("b", "d", change)])
    assert noise and noise.freedom == 6
    assert noise_of([("a", "b", single)]) is None


def test_sides_that_ran_on_different_machines_are_told() -> None:
    here, there = (
        [result(seed, loss) | {"machine": machine} for seed in (1, 2, 3)] for loss, machine in ((1.0, "a"), (1.1, "b"))
    )
    assert "(3 seeds, on different CPUs); " in verdict(Comparison("a", "b"), "", here, there)
    assert "(3 seeds); " in verdict(Comparison("a", "b"), "", here, here)


def test_differences_are_taken_seed_by_seed() -> None:
    far_apart = [result(1, 1.0), result(2, 3.0), result(3, 2.0)]
    other = [result(2, 3.1), result(3, 2.11), result(1, 1.1)]
    assert "-0.1033 ± 0.0033 (3 seeds); **agrees" in verdict(Comparison("a", "b"), "", far_apart, other)


def test_spread_is_the_standard_error_of_the_mean() -> None:
    assert spread([1.0, 2.0, 3.0]) == pytest.approx((2.0, 3**-0.5, 3))


def test_correlation_is_each_seeds_own() -> None:
    """Seeds that differ from each other, and in which more sunk compute always gives a lower loss."""
    (experiment,) = load_experiments(ROOT / "configs" / "experiments", ["sunk_extra"])
    results = Results(ROOT / "no-results")

    def at(_: object, point: dict[str, str]) -> list[dict[str, Any]]:
        from_scratch = 99.0 * (point["sunk"] == "0")  # no point of the line
        return [
            result(seed, seed - float(point["sunk"]) + from_scratch, 0.1 + seed * float(point["sunk"]))
            for seed in (1, 2, 9)
        ]

    results.at = at  # type: ignore[assignment, method-assign]
    loss, accuracy, _ = correlations(experiment, results)
    assert "validation loss with F_c before the growth, of what has grown: -1.00 ± 0.00 (3 seeds)" in loss
    assert "+1.00 ± 0.00 (3 seeds)" in accuracy
