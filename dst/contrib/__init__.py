"""Methods whose paper or code could not be read in full: the same form, weaker evidence.

``README.md`` beside this file has the entrance rule.
"""
