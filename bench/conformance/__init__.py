"""The conformance suite: does a server keep to the Open Inference Protocol v2 and to Triton's extensions of it?

Everything about a model is learned over the wire, so any server and any model can be asked. ``checks/``
holds what is asked, a file for each group of sections; ``runner`` asks it; ``report`` prints the answers.
"""
