"""What a run is: its options, what is checked of them, and what a sweep may search."""
