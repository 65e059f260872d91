"""The version of this contract, stated by server, client and runner alike.

It rises when a message of today can't be read by a reader of yesterday. The server speaks the current one and the one
before, since images are immutable and keep the runner they were built with.
"""

CONTRACT_VERSION = 1
SUPPORTED_VERSIONS = (CONTRACT_VERSION,)
VERSION_HEADER = "Neartime-Contract"


def incompatible(theirs: int, who: str) -> str | None:
    """What to tell `who` when its contract version is not spoken here, and None where it is."""
    if theirs in SUPPORTED_VERSIONS:
        return None
    remedy = (
        "upgrade it: pip install --upgrade neartime (in an image: build it again)"
        if theirs < min(SUPPORTED_VERSIONS)
        else "upgrade the server: pip install --upgrade 'neartime[server]'"
    )
    ours = " and ".join(str(version) for version in SUPPORTED_VERSIONS)
    return f"{who} speaks contract version {theirs}, this server speaks {ours}; {remedy}"
