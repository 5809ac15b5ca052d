"""Evaluate a policy: `igsearch evaluate` as a file. Its options are in igsearch/commands/evaluate.py."""

from igsearch.commands.evaluate import command

if __name__ == "__main__":
    command()
