"""The Arrow schemas of everything beamclip writes; imports pyarrow and nothing else."""
