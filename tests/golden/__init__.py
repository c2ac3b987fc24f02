"""The cards' losses on six fixed tokens, in plain numpy and independent of the package."""
