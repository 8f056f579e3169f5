"""The page that the box itself serves to whoever stands beside it."""
