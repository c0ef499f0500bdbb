"""Observers: each is told what happened, none can change it."""
