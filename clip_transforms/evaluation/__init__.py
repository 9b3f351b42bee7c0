"""Labels held against known truths: figures with intervals, calibration, comparisons, few-shot probes."""
