"""Image-text pairs: their scores, the rules, duplicates and the cut that choose among them, and what is written."""
