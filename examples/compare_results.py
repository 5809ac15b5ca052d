"""Compare two evaluations: `igsearch compare` as a file. Its options are in igsearch/commands/compare.py."""

from igsearch.commands.compare import command

if __name__ == "__main__":
    command()
