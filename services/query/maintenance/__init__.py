"""The maintainer's jobs: each keeps something derived true, or removes what nobody needs any more.

Everything here can be left out or done again: readers are right without it, only slower.
"""
