"""Data only: the values of each study's description. STUDY is the whole, SMALL a first look."""
