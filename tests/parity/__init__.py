"""The package's losses against those that other libraries ship, and invariances that no library's loss should lack."""
