"""Claims of papers as data, a file per family; the fields are those of experiments.ledger."""
