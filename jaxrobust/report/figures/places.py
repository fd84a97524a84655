"""Where on the page an analysis is shown."""

import enum


class Place(enum.Enum):
    """A section of the page, or the end of one."""

    WARNINGS = enum.auto()
    ATTACKS = enum.auto()
    CURVES = enum.auto()
    CORRUPTIONS = enum.auto()
    ANALYSES = enum.auto()
