"""Attention over processes: the same function as in one, and what happens when one fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from d2lattn import DotProductScore, GaussianScore, Mask
from d2lattn.blocks import Block
from d2lattn.distributed import Processes, ring_attention, shard_sequence
from d2lattn.distributed.layout import planned
from d2lattn.restrictions import Part
from tests import distributed_faults as faults
from tests import distributed_regression as shared
from tests import distributed_work as work

# Values and gradients are sums of a few hundred products of size 1, in float64.
EXACT = 1e-10
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def teams() -> Iterator[list[Processes]]:
    found: list[Processes] = []
    yield found
    for team in found:
        team.stop()


@pytest.fixture
def team(teams: list[Processes], request: pytest.FixtureRequest) -> Iterator[Processes]:
    """Four processes, of which a test may use two, three or four; after a failure new ones."""
    if not teams:
        teams.append(Processes(4, timeout=20))
    failed = request.session.testsfailed
    yield teams[0]
    if request.session.testsfailed > failed:
        teams.pop().stop()


def cases(make: str, size: int) -> list[tuple[str, str, tuple[str, str, bool]]]:
    """A third of the masks, each in some way: by pairs, every size meets every mask and way."""
    first = list(work.SCORES).index(make)
    return [
        (make, mask, work.WAYS[(first + number) % len(work.WAYS)])
        for number, mask in enumerate(work.MASKS)
        if (first + 2 * number) % 3 == size - 2
    ]


@pytest.mark.parametrize("make", work.SCORES)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_ring_gives_the_values_and_gradients_of_one_process(team, size, make):
    some = cases(make, size)
    for found in team.run(work.many_errors, size, some)[:size]:
        for case, (error, name) in zip(some, found, strict=True):
            assert error < EXACT, (case, name)


def test_every_size_meets_every_score_mask_and_way_in_these_comparisons():
    some = [
        (*case, size) for make in work.SCORES for size in (2, 3, 4) for case in cases(make, size)
    ]
    assert len(some) == len(work.SCORES) * len(work.MASKS)
    for axis, count in ((0, len(work.SCORES)), (1, len(work.MASKS)), (2, len(work.WAYS))):
        assert len({(case[axis], case[3]) for case in some}) == 3 * count
    assert len({case[:2] for case in some}) == len(some)


def test_these_comparisons_see_what_may_go_wrong_in_a_ring(team):
    assert max(team.run(work.mutant_error, "nothing")) < EXACT
    for mutant in [
        "rotates the wrong way", "forgets the last block", "keeps gradients at home",
        "merges without the maximum", "has positions off by a block",
    ]:  # fmt: skip
        assert max(team.run(work.mutant_error, mutant)) > 1e-3, mutant


def test_every_way_gives_them_under_every_mask(team):
    make = "biased by a tensor"
    some = [(make, mask, way) for mask in ("causal", "lengths and causal") for way in work.WAYS]
    for found in team.run(work.many_errors, 3, some)[:3]:
        for case, (error, name) in zip(some, found, strict=True):
            assert error < EXACT, (case, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_ring_rounds_no_more_than_one_process(team, dtype):
    found = team.run(work.rounded, dtype)[0]
    for ring, alone in zip(found[::2], found[1::2], strict=True):
        assert ring <= 1.2 * alone


@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
def test_the_bytes_sent_are_those_of_the_formula(team, layout):
    # A block: 2 sequences x 6 tokens x (5 + 3) features x 4 bytes. It makes 3 hops; its gradient,
    # in float32 as well, makes them too and comes home.
    block = 2 * 6 * 8 * 4
    for found in team.run(work.traffic, layout, None):
        assert found == (3 * block, 3, (3 + 4) * block, 3 + 4)


def test_no_block_goes_farther_than_it_is_seen(team):
    block = 2 * 6 * 8 * 4
    found = team.run(work.traffic, "contiguous", Mask.causal())
    # Block p is of use to processes p to 3: process p passes on blocks 0 to p, the last none.
    assert [sent for sent, _, _, _ in found] == [block, 2 * block, 3 * block, 0]
    window = team.run(work.traffic, "contiguous", Mask.window(6))
    assert [sent for sent, _, _, _ in window] == [block, block, block, 0]
    # Their gradients go the same way, and home in one more message.
    assert [back for _, _, back, _ in window] == [2 * block, 3 * block, 3 * block, block]


@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "uneven"])
def test_one_query_for_all_gets_the_answer_of_one_process(team, layout):
    assert max(team.run(work.one_query, layout)) < EXACT


def test_scores_far_from_zero_are_merged_by_their_maximum(team):
    for found in team.run(work.far_from_zero):
        assert all(off < EXACT for off in found), found  # NaN too


@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
@pytest.mark.parametrize("length", [0, 3, 8, 13])
def test_what_was_cut_is_joined_again_and_gradients_collect_what_all_owe(team, length, layout):
    assert team.run(work.gathered, length, layout) == [(True, True)] * 4


def test_a_zigzag_gives_everybody_one_early_and_one_late_stretch():
    assert planned(8, 2, "zigzag") == [[(0, 2), (6, 8)], [(2, 4), (4, 6)]]
    # Causal work: how many keys the queries of each process see, all in all.
    work_of_each = [
        sum(i + 1 for start, stop in parts for i in range(start, stop))
        for parts in planned(800, 4, "zigzag")
    ]
    assert len(set(work_of_each)) == 1
    assert planned(5, 3, "contiguous") == [[(0, 2)], [(2, 4)], [(4, 5)]]


def test_an_axis_of_a_mesh_is_a_group(team):
    assert max(team.run(work.on_a_mesh)) < EXACT


def test_dropped_weights_are_dropped_again_on_the_way_back_and_differ_between_processes(team):
    for dropped, off, again, others in team.run(work.dropped):
        assert abs(dropped - 0.3) < 0.06  # of 400 weights; a standard deviation is 0.023
        assert off < 1e-6
        assert again
        assert others


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kernel", "features"), [
    ("gaussian", 1), ("gaussian", 2), ("epanechnikov", 1), ("boxcar", 2),
])  # fmt: skip
def test_a_regression_on_shared_measurements_is_that_of_one_process(
    team, kernel, features, weighted
):
    for found in team.run(shared.regression, kernel, features, weighted, False):
        for name, off in found.items():
            # A minimum is flat: the loss tells bandwidths apart to the root of its own error.
            assert off < (1e-5 if name == "bandwidth" else EXACT), name


@pytest.mark.parametrize(("kernel", "weighted"), [
    ("gaussian", True), ("epanechnikov", False),
])  # fmt: skip
def test_a_bandwidth_for_each_feature_is_selected_as_by_one_process(team, kernel, weighted):
    found = team.run(shared.by_feature, kernel, weighted)[:2]
    assert len({tuple(chosen) for _, _, chosen in found}) == 1  # to the last digit
    for off, loss, _ in found:
        if kernel == "gaussian":  # a minimum is flat
            assert off < 1e-5
        # Compact kernels make many local minima, of which either may find one a little deeper.
        assert loss < (1 + 1e-9 if kernel == "gaussian" else 1.02)


@pytest.mark.parametrize(("what", "message"), [
    ("candidates", "select_bandwidth needs the same candidates"),
    ("empty", "predict needs the same empty"),
    ("x", "x must have the dtype that was fitted"),
    ("call", "needs the same call"),
    ("tqdm", "tqdm.auto must be installed"),
])  # fmt: skip
def test_a_regression_that_is_asked_for_different_things_says_so_everywhere(team, what, message):
    assert all(message in x for x in team.run(shared.regress_differently, what))


def test_a_bar_shows_to_who_asks_how_much_was_done(team):
    asked, *others = team.run(shared.progress_shown)
    assert asked.count("100%") == 3
    assert "2bandwidth" in asked
    assert others == [""] * 3


def test_a_bandwidth_learns_from_all_measurements(team):
    for found in team.run(shared.regression, "gaussian", 1, False, True):
        assert max(found.values()) < 1e-6  # the parameter and its gradient are float32


def test_no_process_ever_holds_all_measurements(team):
    assert max(team.run(shared.most_measurements_held)) <= 200  # of 400; its own are 100


# --- faults ---


@pytest.mark.parametrize(("name", "value", "message"), [
    ("features", 5, "features of queries, keys and values"),
    ("batch", 3, "batch axes"),
    ("dtype", torch.float32, "dtypes"),
    ("dropout", 0.5, "dropout"),
    ("layout", "zigzag", "layout"),
    ("rotate", "gather", "rotate"),
    ("mask", Mask.causal(), "mask"),
    ("score", GaussianScore(), "score"),
    ("valid_lens", torch.tensor([3, 4]), "valid_lens"),
    ("grad", True, "need of gradients"),
])  # fmt: skip
def test_what_is_different_on_one_process_is_named_on_all(team, name, value, message):
    found = team.run(faults.attend_to, {name: {1: value}})
    for answer in found:
        assert answer.startswith("ValueError: ring_attention needs the same " + message), answer
        assert "process 1" in answer
    assert team.run(faults.attend_to, {}) == ["done"] * 4


def test_lengths_with_other_numbers_are_named(team):
    lens = {rank: torch.tensor([3, 4 + (rank == 2)]) for rank in range(4)}
    assert all("same valid_lens" in x for x in team.run(faults.attend_to, {"valid_lens": lens}))


def test_a_bad_argument_on_one_process_is_heard_by_all(team):
    found = team.run(faults.attend_to, {"score": {2: DotProductScore}})
    assert found[2].startswith("TypeError: score must be a Score")
    for rank in (0, 1, 3):
        assert found[rank].startswith("RuntimeError: ring_attention failed on process 2: TypeError")


def test_calls_of_different_functions_are_named(team):
    found = team.run(faults.different_calls)
    assert all("same call on every process" in x and "gather_sequence" in x for x in found)


@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_score_that_fails_on_one_process_stops_all_and_hangs_none(team, at):
    found = team.run(faults.fail_in_a_score, 2, at)
    assert found[2][0] == "ArithmeticError: no score today"
    for rank in (0, 1, 3):
        assert found[rank][0] == (
            "RuntimeError: ring_attention failed on process 2: ArithmeticError: no score today"
        )
    assert [second for _, second in found] == ["done"] * 4  # nothing of it is left


def test_a_failure_on_the_way_back_stops_all_too(team):
    found = team.run(faults.fail_on_the_way_back, 1)
    assert found[1] == "ArithmeticError: no score today"
    assert all("failed on process 1" in found[rank] for rank in (0, 2, 3))


def test_a_number_that_a_function_looks_up_must_not_change_before_the_way_back(team):
    for said in team.run(faults.changed_number):
        assert all("width=width" in x for x in said)


def test_tokens_changed_before_the_way_back_are_noticed(team):
    assert all("modified by an inplace operation" in x for x in team.run(faults.changed_in_place))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Lost(NamedTuple):
    """What nine processes heard when three groups of them lost one each; what was left of them."""

    error: str
    doubled: list[int]
    answers: list[Any]
    seconds: float
    still_there: list[int]
    folder_before: bool
    folder_after: bool


@pytest.fixture(scope="module")
def lost() -> Lost:
    # Long enough for a process that is there and has to wait for a core.
    with Processes(9, timeout=5) as team:
        folder = Path(team._folder.name)
        with pytest.raises(RuntimeError) as error:
            team.run(faults.divide)
        doubled, before = team.run(faults.double), folder.exists()
        start = time.monotonic()
        answers = team.attempt(faults.lose_one)
        seconds = time.monotonic() - start
    still_there = [pid for pid in team.pids if alive(pid)]
    return Lost(str(error.value), doubled, answers, seconds, still_there, before, folder.exists())


@pytest.mark.parametrize(("first", "fault"), [
    (0, "before"), (3, "in the middle"), (6, "never arrives"),
])  # fmt: skip
def test_a_process_that_is_lost_is_named(lost, first, fault):
    assert lost.seconds < 25
    # Who waited for the lost one names it; who waited for that one, in the ring, names that. In the
    # middle, either neighbour may be the one whose message is on its way.
    heard = [str(answer) for answer in lost.answers[first : first + 3]]
    assert "LostProcessError" in heard[2]
    assert "LostProcessError" in heard[0]
    neighbours = heard[0::2] if fault == "in the middle" else heard[2:]
    assert any("of 3 waited for process 1," in message for message in neighbours)
    assert ("slept" if fault == "never arrives" else "ended") in heard[1]


def test_processes_leave_nothing_behind_after_an_error_or_a_loss(lost):
    assert "process 0: division by zero" in lost.error
    assert lost.doubled == [2 * rank for rank in range(9)]
    assert lost.folder_before
    assert not lost.folder_after
    assert not lost.still_there


def test_the_example_runs_under_torchrun_and_goes_on_where_it_was_broken_off(tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "examples/long_sequence.py", "--tokens", "2000", "--width", "64", "--heads", "2",
        "--mask", "causal", "--timeout", "60", "--save", str(tmp_path),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if Path("/sys/class/net/lo").exists():
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    printed = []
    for _ in range(2):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
        (tmp_path / "head-1-process-0-of-2.pt").unlink()  # one head is to be made again
    # A block is 1000 keys and values of 64 features in float32; each process sends its own.
    for report, heads in zip(printed, (2, 1), strict=True):
        sent = heads * 1000 * 2 * 64 * 4
        assert report.count(f"{sent / 1e6:.1f} MB sent") == 2
    assert 0 < float(printed[0].rsplit(" ", 1)[-1]) < 1e-5  # the error
    assert "error" not in printed[1]  # the first head, which is checked, was not made again


def test_without_processes_the_error_says_what_to_do():
    tokens = [torch.zeros(3, 2)] * 3
    with pytest.raises(RuntimeError, match="init_process_group"):
        ring_attention(DotProductScore(), *tokens)
    with pytest.raises(RuntimeError, match="torchrun"):
        shard_sequence(tokens[0])
    with pytest.raises(ValueError, match="layout must be"):
        shard_sequence(tokens[0], layout="spiral")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", work.MASKS)
def test_a_part_of_a_mask_is_that_part_of_its_booleans(name):
    given = work.MASKS[name]
    mask = given.get("mask", ~Mask.where(lambda i, j: i < -9))
    mask = mask if isinstance(mask, Mask) else Mask.tensor(mask)
    if "valid_lens" in given:
        mask = mask & Mask.lengths(given["valid_lens"])
    n, m = work.QUERIES, work.KEYS
    shape, cpu = (work.BATCH, n, m), torch.device("cpu")
    dense = mask.dense(n, m).expand(shape)
    bound = mask._restriction.bind(shape, cpu)
    for rows, columns in (((3, 11), (5, 20)), ((0, n), (0, m)), ((18, 19), (0, 4))):
        part = Part(bound, shape, rows, columns)
        own = (work.BATCH, rows[1] - rows[0], columns[1] - columns[0])
        want = dense[:, slice(*rows), slice(*columns)]
        whole = Block.whole(own)
        assert torch.equal(part.allowed(whole, cpu).expand(own), want)
        assert torch.equal(part.hidden(whole, cpu).expand(own), ~want)
        some = whole._replace(rows=slice(0, 1), columns=torch.tensor([1, 3]))
        assert torch.equal(part.allowed(some, cpu).expand(some.sizes), want[:, :1, [1, 3]])
        start, stop = part.hull((0, own[-2]), own)
        assert not want[..., :start].any()
        assert not want[..., stop:].any()
        seen, every = part.columns(whole, cpu)
        assert not want.any(dim=1).any(dim=0)[~seen].any()
        assert want[..., every].all()
