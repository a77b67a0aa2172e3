"""How masks and weights enter and leave the program."""
