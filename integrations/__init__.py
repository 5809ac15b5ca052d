"""Adapters: the environment and the algorithms of this project in the trainers of other projects, one folder each."""
