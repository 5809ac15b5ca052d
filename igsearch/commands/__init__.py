"""One module for each command of `igsearch`; none imports torch before its options have been parsed."""
