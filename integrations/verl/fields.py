"""Names that the agent loop and the advantage estimators share."""

EPISODE = "igsearch_episode"
"""Key of `AgentLoopOutput.extra_fields` and `DataProto.non_tensor_batch`: the episode, as `dump_episode` wrote it."""
