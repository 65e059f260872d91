"""What is read off the counts."""

import numpy as np


def magnetization(counts):
    """Mean of Z of each qubit, the first qubit first."""
    total = sum(counts.values())
    signs = np.array([[1 - 2 * int(bit) for bit in reversed(key)] for key in counts])
    return (np.array(list(counts.values())) @ signs) / total
