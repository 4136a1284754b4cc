"""Using and exporting trained models."""
