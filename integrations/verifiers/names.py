"""Names that the parts of this adapter share."""

PACKAGE = "igsearch-verifiers"
"""Id of taskset and harness: the package in the folder `environment`."""
EPISODE = "igsearch_episode"
"""Key of `Trace.info`: the episode, as `dump_episode` wrote it."""
