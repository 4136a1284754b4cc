"""Ray: connecting to it, starting one for a job alone, and owning a folder."""
