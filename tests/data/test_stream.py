from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.data.config import DataStage, Source, Until, check_sources
from lit_recycle.data.stream import Stream, StreamSource, check_repetitions

SIZES = {"web": 50, "code": 20, "books": 7}


def stream(*stages, sizes=None, seq_len=4, seed=0):
    sizes = sizes or SIZES
    declared = [Source(name, f"{name}.txt") for name in sizes]
    sources = tuple(StreamSource(name, f"key of {name}", size) for name, size in sizes.items())
    return Stream(sources, tuple(check_sources(declared, stages)), seq_len, seed)


def seen(part: Stream, start: int, stop: int) -> list[tuple[str, int]]:
    """Samples by name of their source."""
    order = part.order()
    drawn = zip(*(axis.tolist() for axis in order.at(np.arange(start, stop))), strict=True)
    return [(part.sources[source].key, sample) for source, sample in drawn]


def weights(**values: float) -> dict[str, float]:
    return values


TWO = (DataStage(weights(web=3, code=1), Until(tokens=90)), DataStage(weights(code=2, books=1.5)))


def test_stages_end_at_the_first_sample_that_begins_after_their_tokens():
    samples = seen(stream(*TWO), 0, 40)
    border = 23  # the first sample that begins at or after token 90
    assert Counter(key for key, _ in samples[:border]) == {"key of web": 18, "key of code": 5}
    assert {key for key, _ in samples[border:]} == {"key of code", "key of books"}


@given(data=st.data())
def test_no_sample_is_repeated_within_an_epoch_whatever_changes_on_the_way(data):
    """Each stretch of a run may bring other weights, stages and sources, but the samples are those of one order."""
    position, state, everything = 0, None, []
    for _ in range(data.draw(st.integers(1, 5))):
        names = data.draw(st.lists(st.sampled_from([*SIZES]), min_size=1, max_size=3, unique=True))
        drawn = [data.draw(st.floats(0.1, 9).map(lambda x: round(x, 1))) for _ in names]
        stages = [DataStage(dict(zip(names, drawn, strict=True)))]
        if data.draw(st.booleans()):
            first = DataStage({names[0]: 1.0}, Until(tokens=data.draw(st.integers(1, 300))))
            stages.insert(0, first)
        part = stream(*stages, sizes={name: SIZES[name] for name in names})
        if state is not None:
            part, _ = part.resumed(state, position)
        length = data.draw(st.integers(0, 40))
        everything += seen(part, position, position + length)
        position += length
        state = part.state_dict(position)
    for name, size in SIZES.items():
        samples = [sample for key, sample in everything if key == f"key of {name}"]
        whole = seen(stream(sizes={name: size}), 0, len(samples))
        assert samples == [sample for _, sample in whole]
        assert state["drawn_now"].get(f"key of {name}", 0) == len(samples)


@given(stop=st.integers(0, 90), borders=st.lists(st.integers(0, 60), max_size=2).map(sorted))
def test_resumed_anywhere_it_is_the_same_stream(stop, borders):
    stages = (
        DataStage(weights(web=1), Until(growth=1)),
        DataStage(weights(web=3, code=1), Until(tokens=150)),
        DataStage(weights(books=1), Until(growth=2)),
        DataStage(weights(code=1, books=1)),
    )
    whole = stream(*stages)
    for number, border in enumerate(borders, 1):
        whole = whole.after_growths(number, border)
    expected = seen(whole, stop, 120)
    part = stream(*stages)
    for number, border in enumerate(borders, 1):
        if border <= stop:
            part = part.after_growths(number, border)
    part, changed = stream(*stages).resumed(part.state_dict(stop), stop)
    assert changed == ""
    for number, border in enumerate(borders, 1):
        part = part.after_growths(number, border)
    assert seen(part, stop, 120) == expected


def test_a_stage_waits_for_its_growth():
    stages = (DataStage(weights(web=1), Until(growth=1)), DataStage(weights(code=1)))
    part = stream(*stages)
    assert {key for key, _ in seen(part, 0, 100)} == {"key of web"}
    part = part.after_growths(1, 30)
    assert [key for key, _ in seen(part, 28, 32)] == ["key of web"] * 2 + ["key of code"] * 2
    assert part.after_growths(1, 50) == part


def test_sources_of_the_same_size_have_unrelated_orders():
    part = stream(sizes={"one": 500, "other": 500})
    one, other = ([s for key, s in seen(part, 0, 1000) if key == f"key of {name}"] for name in ("one", "other"))
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 10


def test_tokens_and_epochs_are_those_of_the_samples():
    part = stream(*TWO)
    samples = Counter(key for key, _ in seen(part, 0, 77))
    assert part.drawn_by(77) == {name: samples[f"key of {name}"] for name in SIZES}
    assert part.epochs_by(77 * part.seq_len)["books"] == samples["key of books"] / 7
    assert sum(part.tokens_by(77 * part.seq_len + 3).values()) == 77 * part.seq_len + 3


def test_another_order_begins_anew_and_remembers_the_tokens():
    state = stream(*TWO).state_dict(30)
    part, told = stream(*TWO, seed=1).resumed(state, 30)
    assert "seed was 0, is 1" in told
    assert (part.start, part.start_tokens, part.drawn) == (30, 120, {})
    assert {key for key, _ in seen(part, 30, 60)} == {"key of code", "key of books"}  # beyond token 90


def test_sources_that_come_and_go_are_told():
    state = stream(*TWO).state_dict(30)
    part, told = stream(sizes={"code": 20, "news": 9}).resumed(state, 30)
    assert told.endswith("training goes on in code after 9 samples, news at its start.")
    later = part.state_dict(40)
    back, _ = stream(sizes={"web": 50}).resumed(later, 40)
    assert back.drawn_by(40) == {"web": 18}


def test_a_cap_on_repetitions():
    part = stream(*TWO)
    check_repetitions(part, {"web": 1.0, "code": 4}, 400)
    with pytest.raises(ValueError, match=r"go through source 'books' 4\.71 times, and its max_epochs is 4: lower"):
        check_repetitions(part, {"books": 4}, 400)


@pytest.mark.parametrize(
    ("sources", "stages", "message"),
    [
        (["a", "a"], [], "two are called 'a'"),
        (["a"], [DataStage({"b": 1})], "no source 'b' among a"),
        (["a"], [DataStage({"a": 1}, Until(tokens=9))], "the last has none"),
        (["a"], [DataStage({"a": 1}), DataStage({"a": 1})], "every stage but the last needs an until"),
        (["a"], [DataStage({"a": 1}, Until(tokens=t)) for t in (9, 9)] + [DataStage({"a": 1})], "must grow"),
        (["a", "b"], [DataStage({"a": 0})], "above zero"),
    ],
)
def test_what_sources_and_stages_must_not_be(sources, stages, message):
    with pytest.raises(ValueError, match=message):
        check_sources([Source(name, "x") for name in sources], stages)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Source("a/b", "x"), "'a/b' must be letters"),
        (lambda: Source("a", "x", weight=-1), "weight of source 'a' must not be negative"),
        (lambda: Source("a", "x", max_epochs=0), "max_epochs of source 'a' must be above 0"),
        (lambda: Until(), "exactly one of tokens and growth"),
        (lambda: Until(tokens=1, growth=1), "exactly one of tokens and growth"),
        (lambda: Until(tokens=0), "until.tokens must be above 0"),
        (lambda: Until(growth=0), "from 1 on"),
    ],
)
def test_keys_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
