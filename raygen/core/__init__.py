"""The basis of all other packages: errors, storage, checked outside values, job status."""
