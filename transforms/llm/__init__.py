"""How requests reach a language model: the window, the client, the wire, and the servers of this host."""
