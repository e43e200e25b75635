"""Report: everything that a person looks at. Only the command line and the pipeline import it."""
