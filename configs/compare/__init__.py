"""What `python -m experiments.compare` compares: methods with their spaces, and frozen targets."""
