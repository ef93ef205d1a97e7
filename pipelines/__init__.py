"""Studies: each file asks one question, declares what is varied, and ends in a `pipeline`."""
