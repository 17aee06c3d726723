"""Where flatness ranks committees by test error: sizes and label noise."""
