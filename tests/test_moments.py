"""From sums of kernels to averages and lines."""

import torch

from d2lattn.moments import Moments, average, local_weights, powers_of
from tests.helpers import close, normal


def test_powers_go_up_to_twice_the_degree():
    assert powers_of(2, 0) == [(0, 0)]
    assert powers_of(1, 1) == [(0,), (1,), (2,)]
    assert set(powers_of(2, 1)) == {(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)}


def test_averages_and_lines_from_moments_are_those_from_weights():
    ways, kernels, values = normal(8, 30, 2), normal(8, 30, seed=1).abs(), normal(30, 1, seed=2)
    table = torch.cat([torch.ones(30, 1).double(), values], dim=1)
    sums: dict[tuple[int, ...], torch.Tensor] = {
        powers: (kernels * (ways ** ways.new_tensor(powers)).prod(dim=-1)) @ table
        for powers in powers_of(2, 1)
    }
    weights = kernels / kernels.sum(dim=1, keepdim=True)
    units = torch.tensor([1.0, 0.5]).double()
    for degree in (0, 1):
        moments = Moments(dict(sums), kernels.sum(dim=1))
        found, good = average(moments, degree, units)
        assert good.all()
        expected = local_weights(weights, ways, units) if degree else weights
        close(found, expected @ values)


def test_sums_are_not_good_where_most_of_what_was_near_does_not_count():
    sums = torch.tensor([[1.0, 2.0], [1e-9, 2e-9]]).double()
    moments = Moments({(0,): sums}, torch.ones(2).double())
    _, good = average(moments, 0, torch.ones(1).double())
    assert good.tolist() == [True, False]


def test_weights_of_a_line_sum_to_one_and_are_those_of_its_average_at_the_middle():
    weights, ways = normal(1, 9).softmax(dim=-1), normal(1, 9, 1, seed=1)
    unit = torch.ones(1).double()
    close(local_weights(weights, ways, unit).sum(dim=1), torch.ones(1))
    middle = (weights.unsqueeze(-1) * ways).sum(dim=1, keepdim=True)
    close(local_weights(weights, ways - middle, unit), weights)
