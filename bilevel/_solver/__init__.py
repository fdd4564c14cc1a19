"""The bilevel methods, one a file."""
