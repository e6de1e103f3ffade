"""Preprocessing of pictures and sentences, and ranking of classes: the same code for training and serving."""
