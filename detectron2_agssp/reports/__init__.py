"""HTML pages: reports of map folders and of training."""

from detectron2_agssp.reports.report import HtmlReport

__all__ = ["HtmlReport"]
