"""Plug-ins: what each kind must be, how they are found by name, and how a recipe's uses become instances."""
