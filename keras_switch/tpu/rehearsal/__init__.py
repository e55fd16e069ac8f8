"""The train step compiled for a TPU slice without a TPU."""
