"""The runs that a storage holds, side by side."""
