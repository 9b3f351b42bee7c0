"""Contrastive training of an open_clip model from images and captions; imports torch."""
