"""The parts of `igsearch evaluate`: configuration, player, questions that are asked, progress. Light imports."""
