"""`python -m onceforall`, which is also what `torchrun -m` starts."""

from onceforall.cli import main

main()
