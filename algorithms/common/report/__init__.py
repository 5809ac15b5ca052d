"""HTML reports: a run, a comparison of runs, trajectories. Each is one self-contained HTML file."""
