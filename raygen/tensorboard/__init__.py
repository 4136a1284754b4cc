"""Writing what TensorBoard reads of a run, and running TensorBoard."""
