"""TRL: `trainer.py` trains with an algorithm of this project, `environment.py` is an environment for `GRPOTrainer`."""
