"""Trains each gateway's dictionary on what it sent, where that pays."""
