"""Outputs to fsspec URLs (`-o s3://bucket/out`): made in a folder of this machine, sent as they are complete."""
