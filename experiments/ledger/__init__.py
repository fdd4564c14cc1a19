"""The ledger of claims: what papers say, the number that would show it, and the verdict."""
