"""The one formula at any size: all at once, in blocks of queries, or by a fused kernel."""
