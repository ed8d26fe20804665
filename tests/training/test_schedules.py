"""Learning-rate schedules."""

import pytest
import torch
from torch import nn

from lit_recycle.training.schedules import WarmupStableDecay


def an_optimizer(lr=2.0):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def rates(scheduler, steps):
    """The rates of so many steps, from the present one on."""
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_warm_up_plateau_and_decay():
    scheduler = WarmupStableDecay(an_optimizer(), total_steps=12, warmup_steps=3, decay_steps=4, final_factor=0.2)
    expected = [0.5, 1.0, 1.5, *[2.0] * 6, 1.6, 1.2, 0.8, 0.4, 0.4, 0.4]
    assert rates(scheduler, 15) == pytest.approx(expected)


def test_a_constant_rate():
    assert rates(WarmupStableDecay(an_optimizer(), total_steps=5), 8) == [2.0] * 8


def test_decay_from_the_first_step_to_nothing():
    scheduler = WarmupStableDecay(an_optimizer(), total_steps=4, decay_steps=4, final_factor=0.0)
    assert rates(scheduler, 6) == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0, 0.0])


def test_warm_up_straight_into_decay():
    scheduler = WarmupStableDecay(an_optimizer(), total_steps=4, warmup_steps=2, decay_steps=2, final_factor=0.0)
    assert rates(scheduler, 5) == pytest.approx([2 / 3, 4 / 3, 2.0, 1.0, 0.0])


def test_every_group_keeps_its_own_rate():
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": params[0]}, {"params": params[1], "lr": 4.0}], lr=2.0)
    scheduler = WarmupStableDecay(optimizer, total_steps=10, warmup_steps=1)
    assert scheduler.get_last_lr() == [1.0, 2.0]


@pytest.mark.parametrize("stop", [0, 2, 6, 9, 11])
def test_it_goes_on_where_it_was_saved(stop, tmp_path):
    options = dict(total_steps=12, warmup_steps=3, decay_steps=4)
    expected = rates(WarmupStableDecay(an_optimizer(), **options), 14)
    first = WarmupStableDecay(an_optimizer(), **options)
    assert rates(first, stop) == expected[:stop]
    torch.save({"s": first.state_dict(), "o": first.optimizer.state_dict()}, tmp_path / "saved")
    saved = torch.load(tmp_path / "saved", weights_only=True)
    resumed = WarmupStableDecay(an_optimizer(), **options)
    resumed.load_state_dict(saved["s"])
    resumed.optimizer.load_state_dict(saved["o"])
    assert rates(resumed, 14 - stop) == expected[stop:]


@pytest.mark.parametrize(
    "options",
    [
        dict(total_steps=10, warmup_steps=6, decay_steps=5),
        dict(total_steps=10, warmup_steps=11),
        dict(total_steps=10, decay_steps=11),
        dict(total_steps=10, warmup_steps=-1),
        dict(total_steps=10, decay_steps=-1),
    ],
    ids=str,
)
def test_phases_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match=r"warmup_steps -?\d+ and decay_steps -?\d+ do not fit into total_steps 10"):
        WarmupStableDecay(an_optimizer(), **options)
