"""The command `igsearch`: training, evaluation and everything else that is run, in one program."""
