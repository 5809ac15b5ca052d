"""`python -m igsearch`, and `torchrun -m igsearch train ALGORITHM`."""

from igsearch.cli import main

if __name__ == "__main__":
    main()
