"""`densecli tune`: a local web page on which thresholds are moved and the masks follow, without a run of the model."""
