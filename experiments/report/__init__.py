"""The output of studies: results, statistics over seeds, tables and pictures.

This package trains nothing and knows no study.
"""
