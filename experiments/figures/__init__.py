"""The pictures of the pages, drawn from the recorded results.

python -m experiments.figures              # all of them
python -m experiments.figures overview     # some of them
"""
