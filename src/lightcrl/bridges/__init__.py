"""Bridges to other projects, a file each: models as they expect them, and their results where they keep them.

    sentence_transformers   a module class, by which `SentenceTransformer(folder)` loads a model
    mteb                    a model of mteb 2, and the tasks that `lightcrl mteb` runs
    clip_benchmark          a model type of CLIP_benchmark
    hub                     a model pushed to the Hugging Face hub, its encoders by id or carried along

Each imports its project only when it is used.
"""
