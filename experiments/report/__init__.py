"""What studies write: results on disk, statistics over seeds, tables and pictures.

Nothing here trains anything or knows a study.
"""
