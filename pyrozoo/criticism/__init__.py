"""Whether to believe a fit: scores, predictive checks, importance weights, sensitivity, intervals."""
