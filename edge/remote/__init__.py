"""Commands from outside: the control socket, what may be asked over it, and the verbs that ask."""
