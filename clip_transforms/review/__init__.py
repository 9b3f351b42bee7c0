"""What people look at and correct: the report of a run."""

from clip_transforms.review.report import write_report
from clip_transforms.review.report_values import ReportInputs, ReportOptions
from clip_transforms.review.thumbnails import LoadImage

__all__ = ["LoadImage", "ReportInputs", "ReportOptions", "write_report"]
