"""Other trainers of language models with this project's environment and its credit per token."""
