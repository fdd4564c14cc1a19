"""What every main shares: launching, run folders, checkpoints, configs."""
