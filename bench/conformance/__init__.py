"""The conformance suite: does a server keep to the Open Inference Protocol v2 and to Triton's extensions of it?

Everything about a model is learned over the wire, so any server and any model can be checked. ``checks/``
holds the checks, a file for each group of sections; ``runner`` runs them; ``report`` prints the results.
"""
