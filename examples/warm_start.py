"""Make a warm start: `igsearch warm-start` as a file. Its options are in igsearch/commands/warm_start.py."""

from igsearch.commands.warm_start import command

if __name__ == "__main__":
    command()
