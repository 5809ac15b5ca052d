"""Pages to look at: a run, several runs, trajectories. Each is one HTML file that needs nothing else."""
