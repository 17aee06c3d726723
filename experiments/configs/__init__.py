"""Values for each study's description: STUDY is whole, SMALL a first look."""
