"""Report: all output for people. Only the command line and the pipeline import it."""
