"""Inputs of a run: manifests, folders of videos, and downloads."""
