"""Export a trained policy: `igsearch export` as a file. Its options are in igsearch/commands/export.py."""

from igsearch.commands.export import command

if __name__ == "__main__":
    command()
