"""Images: what each one is made of, its layers, and who puts them together."""

from neartime_server.builder.images.builder import ImageBuilder, ImageMaker

__all__ = ["ImageBuilder", "ImageMaker"]
