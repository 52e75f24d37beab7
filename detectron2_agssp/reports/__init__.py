"""HTML pages: of map folders, of training, and what they are made of."""

from detectron2_agssp.reports.page import picture, render_page, write_page

__all__ = ["picture", "render_page", "write_page"]
