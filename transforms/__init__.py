"""The methods: pure functions and plug-ins, a folder for one kind of thing. Nothing here imports Beam."""
