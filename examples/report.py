"""Write an HTML report of runs: `igsearch report` as a file. Its options are in igsearch/commands/report.py."""

from igsearch.commands.report import command

if __name__ == "__main__":
    command()
