"""The command line: words in, stages run, tables and exit codes out."""
