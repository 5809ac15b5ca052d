"""Play an episode interactively: `igsearch play` as a file. Its options are in igsearch/commands/play.py."""

from igsearch.commands.play import command

if __name__ == "__main__":
    command()
