"""From a picture or a sentence to a tensor and from probabilities to labels: one code for training and serving."""
