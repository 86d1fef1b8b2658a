"""An AWS account on one machine, for developing and testing prepull."""
