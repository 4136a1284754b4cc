"""Streaming shards as the batches of a run."""
