"""The lab: a tabular language model on which the registry's own components run, with every expectation taken by enumeration."""
