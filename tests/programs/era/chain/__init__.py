"""Circuits and observables of a chain of spins."""
