"""From image files to uint8 batches: sources, shards on disk, the stream."""
