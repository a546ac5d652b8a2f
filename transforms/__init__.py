"""The methods: one folder a plug-in kind, one file a plug-in. Pure logic; Beam appears only in `ptransforms`."""
