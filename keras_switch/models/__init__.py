"""Whole models of the Switch Transformer family."""
