"""Committee machines: message passing, focusing belief propagation, and their local entropy."""

from flatjax.committee.model import Committee, error, fields, stay_on_sphere, to_sphere

__all__ = ["Committee", "error", "fields", "stay_on_sphere", "to_sphere"]
