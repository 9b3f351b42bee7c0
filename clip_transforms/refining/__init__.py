"""Refining labels by what people have reviewed: a probe on stored embeddings, doubtful reviews, changed labels."""
