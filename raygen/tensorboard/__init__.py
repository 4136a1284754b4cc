"""What TensorBoard reads of a run, and TensorBoard itself."""
