"""Tasks: evaluations on raw files, which are read and encoded once and then measured on any model."""
