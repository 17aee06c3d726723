"""Whether flatness ranks test errors at matched training error."""
