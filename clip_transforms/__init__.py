"""Labels images with CLIP and no training data: the library under beamclip's jobs."""
