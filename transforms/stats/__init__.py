"""The mathematics: one method a file, its source cited. Arrays and frames in, numbers out; no plug-in, no file."""
