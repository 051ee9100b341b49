"""Attention and kernel regression over the processes of ``torch.distributed``.

Every process runs the same program, holds its own share of the tokens, and calls these functions
together with all others. What is not said to differ has to be the same on all of them, and is
compared before the first token travels.
"""

from d2lattn.distributed.gather import gather_attention
from d2lattn.distributed.layout import gather_sequence, shard_sequence
from d2lattn.distributed.peers import LostProcessError, Traffic, count_traffic
from d2lattn.distributed.processes import Processes
from d2lattn.distributed.regression import ShardedNadarayaWatson
from d2lattn.distributed.ring import ring_attention

__all__ = [
    "LostProcessError",
    "Processes",
    "ShardedNadarayaWatson",
    "Traffic",
    "count_traffic",
    "gather_attention",
    "gather_sequence",
    "ring_attention",
    "shard_sequence",
]
